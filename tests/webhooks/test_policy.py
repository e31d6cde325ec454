"""Which URLs may be called."""

import socket
from ipaddress import ip_address

import pytest

from greenroom.webhooks.policy import HostUnknown, Kind, WebhookRefused, check, kind_of
from greenroom.webhooks.service import check_url
from greenroom.webhooks.settings import Rules

PUBLIC = "93.184.215.14"
KINDS = {
    Kind.PUBLIC: "93.184.215.14 1.1.1.1 100.128.0.1 172.32.0.1 2606:4700::1111 ::ffff:1.1.1.1 "
    "64:ff9b::101:101 2002:101:101::1",
    Kind.PRIVATE: "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 "
    "100.127.255.255 fc00::1 fdff::1 fec0::1 ::ffff:10.0.0.1 64:ff9b::10.0.0.1 2002:a00:1::1",
    Kind.LOOPBACK: "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::",
    Kind.LINK_LOCAL: "169.254.169.254 169.254.0.1 fe80::1 fe80::1%eth0 febf::1 "
    "::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::",
    Kind.UNSPECIFIED: "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0 64:ff9b::",
    Kind.MULTICAST: "224.0.0.1 239.255.255.255 ff02::1 ::ffff:224.0.0.1",
    Kind.DOCUMENTATION: "192.0.2.1 198.51.100.1 203.0.113.255 2001:db8::1 3fff::1",
    Kind.RESERVED: "240.0.0.1 255.255.255.255 192.0.0.170 192.88.99.1 198.18.0.1 198.19.255.255 "
    "2001::1 2001:1ff::1 100::1 64:ff9b:1::1 ::7f00:1 ::ffff:0:7f00:1 5f00::1 4000::1",
}
CASES = [(address, kind) for kind, listed in KINDS.items() for address in listed.split()]


def to(*addresses: str):
    """A resolver with one answer."""
    return lambda _host, _port: list(addresses)


def unknown(host: str, port: int) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(("address", "kind"), CASES)
def test_every_address_has_a_kind(address: str, kind: Kind) -> None:
    """IPv4 addresses inside IPv6 ones (mapped, NAT64, 6to4) count as what they lead to."""
    assert kind_of(ip_address(address)) is kind


@pytest.mark.parametrize(("address", "kind"), CASES)
def test_only_public_and_private_addresses_are_called_by_default(address: str, kind: Kind) -> None:
    """What a name resolves to decides, whatever the name is."""
    if kind in {Kind.PUBLIC, Kind.PRIVATE}:
        assert check(Rules(), "http://example.com/", to(address)).addresses == (address,)
        return
    with pytest.raises(WebhookRefused, match=f"webhook .*{kind} address"):
        check(Rules(), "http://example.com/", to(address))


def test_one_bad_address_of_several_is_enough() -> None:
    """Whoever picks an address later could pick that one."""
    with pytest.raises(WebhookRefused, match="link-local"):
        check(Rules(), "http://example.com/", to(PUBLIC, "2606:4700::1111", "169.254.169.254"))


def test_disable_private_refuses_the_internal_network() -> None:
    """Our own switch, for servers whose callers are strangers."""
    rules = Rules(disable_private=True)
    for address in KINDS[Kind.PRIVATE].split():
        with pytest.raises(WebhookRefused, match="private"):
            check(rules, "http://example.com/", to(address))


def test_permitted_loopback_permits_nothing_else() -> None:
    """The metadata service of a cloud is not loopback."""
    rules = Rules(disable_loopback=False)
    assert check(rules, "http://example.com/", to("127.0.0.1", "::1")).addresses
    for address in ("169.254.169.254", "0.0.0.0", "::"):
        with pytest.raises(WebhookRefused):
            check(rules, "http://example.com/", to(address))


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f.0.0.1/"),
        *("http://0177.0.0.1/", "http://localhost/", "http://LOCALHOST./", "http://[::1]/"),
        *("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://0/"),
        "http://\uff11\uff12\uff17.0.0.1/",
    ],
)
def test_odd_spellings_of_this_machine_are_seen_through(url: str) -> None:
    """The system's own resolver says where each leads; this asks it."""
    with pytest.raises(WebhookRefused):
        check_url(Rules(), url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "must begin with"),
        ("file:///etc/passwd", "must begin with"),
        ("gopher://example.com/", "must begin with"),
        ("example.com/hook", "must begin with"),
        ("http:example.com", "must name a host"),
        ("http://", "must name a host"),
        ("http:///path", "must name a host"),
        ("http://./", "must name a host"),
        ("http://[fe80::1%25eth0]/", "must name a host"),
        ("http://[::1", "is not a URL"),
        ("http://example.com:99999/", "is not a URL"),
        ("http://example.com:x/", "is not a URL"),
        ("http://example.com:0/", "must not use port 0"),
        ("http://user@example.com/", "user or a password"),
        ("http://user:word@example.com/", "user or a password"),
        ("http://127.0.0.1\\@example.com/", "backslashes"),
        ("http://example.com/a b", "spaces"),
        ("http://example.com/\r\nx-evil: 1", "control characters"),
        ("http://exam\tple.com/", "control characters"),
        ("http://example.com/\x7f", "control characters"),
        (f"http://{'a' * 64}\u00e9.com/", "not a name"),
        (f"http://{'a.' * 127}com/", "must name a host"),
    ],
)
def test_malformed_urls_are_refused(url: str, reason: str) -> None:
    """Whatever two parsers might read in two ways is refused before it is read."""
    with pytest.raises(WebhookRefused, match=f"^webhook .*{reason}"):
        check(Rules(), url, to(PUBLIC))


def test_a_name_without_an_address_is_refused() -> None:
    """When the run is created: at delivery it is tried again, because names come and go."""
    with pytest.raises(HostUnknown, match=r"does not resolve: example\.com"):
        check(Rules(), "https://example.com/", unknown)
    with pytest.raises(HostUnknown):
        check(Rules(), "https://example.com/", to())


@pytest.mark.parametrize(
    ("rules", "url", "is_allowed"),
    [
        (Rules(require_https=True), "https://example.com/", True),
        (Rules(require_https=True), "http://example.com/", False),
        (Rules(allowed_ports=(443,)), "https://example.com/", True),
        (Rules(allowed_ports=(443,)), "http://example.com/", False),
        (Rules(allowed_ports=(8443,)), "https://example.com:8443/", True),
        (Rules(max_url_length=20), "http://example.com/", True),
        (Rules(max_url_length=18), "http://example.com/", False),
        (Rules(allowed_domains=("example.com",)), "http://EXAMPLE.com./x", True),
        (Rules(allowed_domains=("example.com",)), "http://a.example.com/", False),
        (Rules(allowed_domains=("example.com",)), "http://example.com.evil.net/", False),
        (Rules(allowed_domains=("*.example.com",)), "http://a.b.example.com/", True),
        (Rules(allowed_domains=("*.example.com",)), "http://example.com/", False),
        (Rules(allowed_domains=("*.example.com",)), "http://evilexample.com/", False),
        (Rules(allowed_domains=("*.example.com",)), f"http://{PUBLIC}/", False),
    ],
)
def test_the_owners_rules(rules: Rules, url: str, is_allowed: bool) -> None:
    """Scheme, port, length and domain."""
    if is_allowed:
        check(rules, url, to(PUBLIC))
        return
    with pytest.raises(WebhookRefused):
        check(rules, url, to(PUBLIC))


def test_a_path_means_this_server_where_it_may_be_called() -> None:
    """Permitting loopback permits that, too, whatever else is asked of URLs."""
    check_url(Rules(require_https=True, disable_loopback=False), "/own/route?x=1")
    for rules, path in (
        (Rules(), "/own/route"),
        (Rules(disable_loopback=False), "//example.com/"),
        (Rules(disable_loopback=False), "/\\example.com/"),
        (Rules(disable_loopback=False, max_url_length=5), "/own/route"),
    ):
        with pytest.raises(WebhookRefused):
            check_url(rules, path)


def test_a_target_is_what_goes_on_the_wire() -> None:
    """Names in their ASCII form, paths encoded, fragments gone, default ports unsaid."""
    target = check(Rules(), "HTTPS://B\u00fccher.example/p\u00e4th%20?q=\u00e4&r=[1]#x", to(PUBLIC))
    assert target.authority == "xn--bcher-kva.example"
    assert target.path == "/p%C3%A4th%20?q=%C3%A4&r=[1]"
    assert check(Rules(), "http://[2606:4700::1111]:81", to(PUBLIC)).authority == (
        "[2606:4700::1111]:81"
    )
