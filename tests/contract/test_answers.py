"""Answers as they travel: in how many pieces, and what becomes of the connection."""

import http.client
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from deployment import Deployment

STREAM = json.dumps({"assistant_id": "echo", "input": {"text": "x"}, "stream_mode": "values"})
OK = {"ok": True, "services": {}}
JSON = {"content-type": "application/json"}
LAST_CHUNK = b"0\r\n\r\n"


@pytest.fixture
def connection(server: Deployment) -> Iterator[http.client.HTTPConnection]:
    """A connection of its own."""
    made = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    yield made
    made.close()


def test_headers_and_body_come_in_one_piece(server: Deployment) -> None:
    """Whoever waits for a small answer is woken once."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as wire:
        for _ in range(3):
            wire.sendall(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
            head, _, body = wire.recv(65536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert json.loads(body) == OK


@pytest.mark.parametrize("length", [1, 300_000])
@pytest.mark.parametrize("way", ["stream", "wait"])
def test_a_connection_is_used_again_after_a_run(
    connection: http.client.HTTPConnection, way: str, length: int
) -> None:
    """What ended well leaves it as any answer does, also where its last piece is one of several."""
    body = json.dumps({"assistant_id": "echo", "input": {"text": "x" * length}})
    for _ in range(2):
        connection.request("POST", f"/runs/{way}", body, JSON)
        answer = connection.getresponse()
        used = connection.sock
        assert answer.headers["transfer-encoding"] == "chunked"
        assert b"x" * length in answer.read()
        connection.request("GET", "/ok")
        assert json.loads(connection.getresponse().read()) == OK
        assert connection.sock is used


def test_the_end_of_an_answer_comes_with_its_last_piece(server: Deployment) -> None:
    """Whoever waits for a run is not woken once more for five bytes."""
    address = urlsplit(server.url)
    head = (
        "POST /runs/wait HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(STREAM)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as wire:
        for _ in range(5):
            wire.sendall((head + STREAM).encode())
            piece = b""
            while not piece.endswith(LAST_CHUNK):
                piece = wire.recv(65536)
            assert len(piece) > len(LAST_CHUNK)


def test_who_asks_for_the_end_of_the_connection_gets_it(
    connection: http.client.HTTPConnection,
) -> None:
    """Also after a stream, whose request nobody remembers by then."""
    address = connection.host, connection.port
    with socket.create_connection(address, timeout=30) as wire:
        head = (
            "POST /runs/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(STREAM)}\r\n\r\n"
        )
        wire.sendall((head + STREAM).encode())
        # Ends with the connection.
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n0\r\n\r\n")


def test_an_old_client_may_keep_its_connection(connection: http.client.HTTPConnection) -> None:
    """HTTP/1.0 has no chunks: answers of known length keep the connection if they are asked to."""
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
    for _ in range(2):
        connection.request("GET", "/ok", headers={"connection": "keep-alive"})
        answer = connection.getresponse()
        assert answer.headers["connection"] == "keep-alive"
        assert json.loads(answer.read()) == OK


def test_a_head_has_no_body(connection: http.client.HTTPConnection) -> None:
    """What follows on the connection is the next answer."""
    connection.request("HEAD", "/ok")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.request("GET", "/ok")
    assert json.loads(connection.getresponse().read()) == OK
