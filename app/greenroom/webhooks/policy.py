"""Which URLs may be called, and at which addresses: the guard against calls into our own network.

A URL is checked twice: when the run is created, and again when it is sent, where the connection is
made to the very address that was checked. In between its name may have come to mean another host.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import quote, urlsplit

from greenroom.errors import InvalidRequest
from greenroom.webhooks.settings import Rules

Resolver = Callable[[str, int], Sequence[str]]
"""Finds the addresses of a host; raises OSError when it has none."""
PORTS = {"http": 80, "https": 443}
LONGEST_HOST = 253
# What a URL may hold as it stands; everything else is percent-encoded, an existing %xx stays.
SAFE = "/?:@!$&'()*+,;=-._~%[]"


class WebhookRefused(InvalidRequest):
    """The URL of a webhook breaks a rule."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"webhook {reason}")


class HostUnknown(WebhookRefused):
    """The host of a webhook has no address: for ever, or for now."""


class Kind(StrEnum):
    """What an address is for, in the words of a refusal."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    UNSPECIFIED = "unspecified"
    MULTICAST = "multicast"
    DOCUMENTATION = "documentation"
    RESERVED = "reserved"


# IANA's special-purpose registries (RFC 6890). Our own table: the standard library's answers differ
# from one Python release to the next. The first network that contains an address decides.
NETWORKS: tuple[tuple[IPv4Network | IPv6Network, Kind], ...] = tuple(
    (ip_network(network), kind)
    for kind, networks in (
        (Kind.LOOPBACK, "127.0.0.0/8 ::1/128"),
        (Kind.UNSPECIFIED, "0.0.0.0/8 ::/128"),
        (Kind.LINK_LOCAL, "169.254.0.0/16 fe80::/10"),
        (Kind.MULTICAST, "224.0.0.0/4 ff00::/8"),
        (
            Kind.DOCUMENTATION,
            "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
        ),
        (
            Kind.PRIVATE,
            "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fec0::/10",
        ),
        # Protocol assignments (with Teredo), the old 6to4 relays, benchmarks, the future.
        (
            Kind.RESERVED,
            "192.0.0.0/24 192.88.99.0/24 198.18.0.0/15 240.0.0.0/4 2001::/23",
        ),
        # What nobody has been given is nobody's.
        (Kind.PUBLIC, "0.0.0.0/0 2000::/3"),
        (Kind.RESERVED, "::/0"),
    )
    for network in networks.split()
)
# IPv6 addresses that lead to an IPv4 address: the network, and how many bits follow the latter.
EMBEDDINGS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64 (RFC 6052)
    (IPv6Network("2002::/16"), 80),  # 6to4 (RFC 3056)
)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that has been checked, with every address that its host had at that moment."""

    scheme: str
    host: str
    """As it is asked for: lower case, international names in their ASCII form."""
    port: int
    path: str
    """With the query."""
    addresses: tuple[str, ...]

    @property
    def authority(self) -> str:
        """Host and port as the header `host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL, as others refer to it."""
        return f"{self.scheme}://{self.authority}{self.path}"


def resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver.

    Raises:
        OSError: no such host, or nobody who knows.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_own_path(url: str) -> bool:
    """Tell a path, which means a route of this server, from a whole URL."""
    return url.startswith("/")


def check_own_path(rules: Rules, path: str) -> None:
    """Check a path of this server's own.

    Raises:
        WebhookRefused: this server may not be called, or it is not a path.
    """
    _check_text(rules, path)
    if path.startswith("//"):
        raise WebhookRefused("must be a URL with a scheme, or a path with one slash in front")
    if rules.disable_loopback:
        raise WebhookRefused("must be an absolute URL: this server may not call itself")


def check(rules: Rules, url: str, resolve: Resolver = resolve) -> Target:
    """Check an absolute URL and every address of its host; may wait for the resolver.

    Raises:
        WebhookRefused: a rule is broken; the sentence says which.
        HostUnknown: the host does not resolve.
    """
    _check_text(rules, url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise WebhookRefused("is not a URL") from error
    if parts.scheme not in PORTS:
        raise WebhookRefused("must begin with https:// or http://")
    if rules.require_https and parts.scheme != "https":
        raise WebhookRefused("must use https")
    if "@" in parts.netloc:
        raise WebhookRefused("must not hold a user or a password")
    if port is None:
        port = PORTS[parts.scheme]
    if port == 0 or (rules.allowed_ports and port not in rules.allowed_ports):
        raise WebhookRefused(f"must not use port {port}")
    host = _host(parts.hostname or "")
    if rules.allowed_domains and not any(_matches(host, name) for name in rules.allowed_domains):
        raise WebhookRefused(f"must not lead to {host}: that domain is not allowed")
    addresses = _addresses(host, port, resolve)
    for address in addresses:
        _check_address(rules, host, address)
    path = quote(parts.path or "/", safe=SAFE)
    query = f"?{quote(parts.query, safe=SAFE)}" if parts.query else ""
    return Target(parts.scheme, host, port, path + query, addresses)


def kind_of(address: IPv4Address | IPv6Address) -> Kind:
    """What an address is for; one that leads to an IPv4 address is what that one is."""
    if isinstance(address, IPv6Address):
        for network, shift in EMBEDDINGS:
            if address in network:
                return kind_of(IPv4Address(int(address) >> shift & 0xFFFFFFFF))
    return next(kind for network, kind in NETWORKS if address in network)


def _check_text(rules: Rules, url: str) -> None:
    if rules.max_url_length is not None and len(url) > rules.max_url_length:
        raise WebhookRefused(f"must not be longer than {rules.max_url_length} characters")
    # Parsers differ about these: some drop them, some take a backslash for a slash.
    if any(character <= " " or character in "\\\x7f" for character in url):
        raise WebhookRefused("must not hold spaces, control characters or backslashes")


def _host(host: str) -> str:
    """Bring a host into the form in which it is looked up and shown to its server."""
    try:
        name = host.rstrip(".").lower() if host.isascii() else host.encode("idna").decode().lower()
    except UnicodeError as error:
        raise WebhookRefused("has a host that is not a name") from error
    name = name.rstrip(".")
    # A scope names one of our own interfaces.
    if not name or len(name) > LONGEST_HOST or "%" in name:
        raise WebhookRefused("must name a host")
    return name


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern


def _addresses(host: str, port: int, resolve: Resolver) -> tuple[str, ...]:
    try:
        addresses = tuple(resolve(host, port))
    except (OSError, UnicodeError) as error:
        raise HostUnknown(f"has a host that does not resolve: {host}") from error
    if not addresses:
        raise HostUnknown(f"has a host without an address: {host}")
    return addresses


def _check_address(rules: Rules, host: str, text: str) -> None:
    kind = kind_of(ip_address(text))
    is_allowed = {
        Kind.PUBLIC: True,
        Kind.PRIVATE: not rules.disable_private,
        Kind.LOOPBACK: not rules.disable_loopback,
    }.get(kind, False)
    if not is_allowed:
        raise WebhookRefused(f"must not lead to a {kind} address, as {host} does")
