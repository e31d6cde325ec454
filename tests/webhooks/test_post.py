"""One attempt to deliver, against real receivers."""

import asyncio
import hashlib
import hmac
import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from greenroom.webhooks import policy, post
from greenroom.webhooks.policy import WebhookRefused
from greenroom.webhooks.post import Letter, NotDelivered
from greenroom.webhooks.settings import Rules, Settings

HERE = Rules(disable_loopback=False)


def send(url: str, settings: Settings | None = None, resolve=policy.resolve, **options) -> int:
    letter = Letter(uuid4(), url, b'{"n":1}', datetime(2026, 1, 2, tzinfo=UTC))
    return asyncio.run(post.post(settings or Settings(HERE), letter, resolve, **options))


class Resolver:
    """Gives one answer after another, the last for ever, and counts."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer.split()


def test_a_delivery_is_the_body_with_the_time_and_our_headers(receiver) -> None:
    """JSON, an id by which to tell repetitions, the owner's headers, no signature unasked."""
    settings = Settings(HERE, headers={"x-token": "abc"})
    assert send(f"{receiver.url}/hook?x=1#y", settings) == 200
    (got,) = receiver.received
    assert got.path == "/hook?x=1"
    assert got.body == {"n": 1, "webhook_sent_at": "2026-01-02T00:00:00+00:00"}
    assert got.headers["content-type"] == "application/json"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["x-token"] == "abc"
    assert len(got.headers["greenroom-delivery"]) == 36
    assert got.headers["greenroom-signature"] is None


def test_a_signature_covers_time_and_body(receiver) -> None:
    """As the documentation tells receivers to compute it."""
    send(receiver.url, Settings(HERE, secret="s3cret"))
    (got,) = receiver.received
    seconds, _, signature = got.headers["greenroom-signature"].partition(",")
    signed = seconds.removeprefix("t=").encode() + b"." + got.raw
    wanted = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert signature == f"v1={wanted}"
    assert seconds == "t=1767312000"


def test_the_checked_address_is_the_one_that_is_called(receiver) -> None:
    """The name is asked for once, and never again between check and connect."""
    resolver = Resolver("127.0.0.1", "169.254.169.254")
    assert send(f"http://pinned.invalid:{receiver.port}/", resolve=resolver) == 200
    assert resolver.asked == ["pinned.invalid"]
    assert receiver.received[0].headers["host"] == f"pinned.invalid:{receiver.port}"


def test_a_name_that_has_changed_since_the_run_was_created_is_refused(receiver) -> None:
    """DNS rebinding: harmless for the first check, this machine for the second."""
    resolver = Resolver("93.184.215.14", "127.0.0.1")
    url = f"http://rebound.invalid:{receiver.port}/"
    policy.check(Rules(), url, resolver)
    with pytest.raises(WebhookRefused, match="loopback"):
        send(url, Settings(Rules()), resolver)
    assert receiver.received == []


def test_another_address_is_tried_when_one_refuses(receiver) -> None:
    """In the resolver's order."""
    assert send(f"http://two.invalid:{receiver.port}/", resolve=Resolver("::1 127.0.0.1")) == 200


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_followed_with_the_body(make_receiver, status: int) -> None:
    """Up to three, and the answer is the last one's."""
    last = make_receiver(204)
    first = make_receiver((status, {"location": "/next"}), (status, {"location": last.url}))
    assert send(first.url) == 204
    assert [got.path for got in first.received] == ["/", "/next"]
    assert last.received[0].body["n"] == 1


def test_the_owners_headers_stay_with_the_host_that_was_named(make_receiver) -> None:
    """A receiver must not be able to send our secrets to another."""
    last = make_receiver()
    first = make_receiver((307, {"location": "/b"}), (307, {"location": last.url}))
    send(first.url, Settings(HERE, headers={"x-token": "abc"}, secret="k"))
    assert [got.headers["x-token"] for got in first.received] == ["abc", "abc"]
    assert last.received[0].headers["x-token"] is None
    assert last.received[0].headers["greenroom-signature"]


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/latest", "http://evil.invalid/", "ftp://example.com/", "//[::]/"],
)
def test_a_redirect_is_checked_like_the_first_url(make_receiver, location: str) -> None:
    """Permission for one address is none for the next."""
    first = make_receiver((302, {"location": location}))
    resolver = Resolver("127.0.0.1", "10.0.0.1 169.254.169.254")
    with pytest.raises(WebhookRefused):
        send(f"http://first.invalid:{first.port}/", resolve=resolver)


def test_three_redirects_are_the_limit(make_receiver) -> None:
    """What comes then is the answer."""
    loop = make_receiver(*[(307, {"location": "/again"})] * 5)
    assert send(loop.url) == 307
    assert len(loop.received) == 4


def test_see_other_is_not_followed(make_receiver) -> None:
    """It says that the request has been dealt with."""
    first = make_receiver((303, {"location": "/result"}))
    assert send(first.url) == 303
    assert len(first.received) == 1


def test_a_path_goes_to_this_server(receiver) -> None:
    """Where the settings say that it listens, prefix and all; https is for others."""
    rules = Rules(require_https=True, disable_loopback=False)
    settings = Settings(rules, own_url=f"{receiver.url}/prefix")
    assert send("/own?x=1", settings) == 200
    assert receiver.received[0].path == "/prefix/own?x=1"
    with pytest.raises(WebhookRefused):
        send("/own", Settings(Rules(), own_url=receiver.url))


class RawReceiver:
    """Says what it is told, whatever HTTP thinks of it, then waits to be left."""

    def __init__(self, *parts: bytes, closes: bool = True) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._parts, self._closes = parts, closes
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        with self.listener, connection:
            while not connection.recv(65536).endswith(b"}"):
                continue
            for part in self._parts:
                connection.sendall(part)
            if not self._closes:
                connection.recv(1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
    ],
)
def test_any_http_answer_counts(answer: bytes) -> None:
    """Whatever version, phrase, interim answers or promises of a body."""
    assert send(RawReceiver(answer).url) == 200


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\n", "without an answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 999 No\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "not HTTP"),
    ],
)
def test_other_answers_do_not(answer: bytes, reason: str) -> None:
    """The next attempt may find another service there."""
    with pytest.raises(NotDelivered, match=reason):
        send(RawReceiver(answer).url)


def test_an_endless_body_is_not_read() -> None:
    """The status decides; the rest is the receiver's own business."""
    body = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000
    assert send(RawReceiver(body, closes=False).url) == 200


@pytest.mark.parametrize("parts", [(), (b"HTTP/1.1 2", b"00 OK\r\n")])
def test_silence_ends_at_the_deadline(parts) -> None:
    """One deadline for everything, so that drops of an answer buy no more time."""
    with pytest.raises(NotDelivered, match=r"no answer within 0\.3 s"):
        send(RawReceiver(*parts, closes=False).url, total_seconds=0.3)


def test_a_resolver_that_hangs_ends_at_the_deadline() -> None:
    """Names are looked up under the same deadline."""
    asked, release = threading.Event(), threading.Event()

    def hang(host: str, port: int) -> list[str]:
        asked.set()
        release.wait(30)
        return ["127.0.0.1"]

    async def attempt() -> None:
        letter = Letter(uuid4(), "http://slow.invalid/", b"{}", datetime.now(UTC))
        with pytest.raises(NotDelivered, match="no answer"):
            await post.post(Settings(HERE), letter, hang, 0.3)
        release.set()

    asyncio.run(attempt())
    assert asked.is_set()


def test_a_refused_connection_tells_no_address() -> None:
    """The log is read by whoever may read the run."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NotDelivered, match=r"^Connection refused$"):
        send(f"http://127.0.0.1:{port}/")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for hooks.test that vouches for itself, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += f" -subj /CN=hooks.test -addext subjectAltName=DNS:hooks.test -out {cert}"
    subprocess.run([*command.split(), "-keyout", str(key)], check=True, capture_output=True)
    return cert, key


def test_a_pinned_connection_verifies_the_urls_host(
    receiver, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address comes from the check, the name that is asked for and verified from the URL."""
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    here = Resolver("127.0.0.1")
    with pytest.raises(NotDelivered, match="certificate"):
        send(f"https://hooks.test:{receiver.port}/", resolve=here)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    post._tls.cache_clear()
    try:
        assert send(f"https://hooks.test:{receiver.port}/", resolve=here) == 200
        with pytest.raises(NotDelivered, match="certificate"):
            send(f"https://other.test:{receiver.port}/", resolve=here)
    finally:
        post._tls.cache_clear()
    assert names == ["hooks.test", "hooks.test", "other.test"]
    assert len(receiver.received) == 1
