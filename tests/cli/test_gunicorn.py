"""gunicorn as we have it: what it remembers from one request to the next."""

import socket

import pytest
from gunicorn.config import Config
from gunicorn.http.unreader import SocketUnreader

from greenroom.cli.gunicorn_worker import PromptRequest

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\n\r\n"


@pytest.mark.parametrize(("peer", "scheme"), [("127.0.0.1", "https"), ("192.0.2.7", "http")])
def test_a_proxy_is_believed_only_if_it_is_trusted(peer: str, scheme: str) -> None:
    """By the first request of an address, and by those for which it is remembered."""
    config = Config()
    config.set("forwarded_allow_ips", "127.0.0.1")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(3):
            theirs.sendall(REQUEST)
            assert PromptRequest(config, SocketUnreader(ours), (peer, 5)).scheme == scheme
