"""Receivers of webhooks, and a deployment whose runs may call them."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment

from greenroom import wire

PROJECT = Path(__file__).parent / "project" / "langgraph.json"
Answer = int | tuple[int, dict[str, str]] | Callable[[], int]
"""A status, one with headers, or what makes one."""


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: Message
    raw: bytes

    @property
    def body(self) -> Any:
        return wire.loads(self.raw)


@dataclass
class Receiver:
    """A real HTTP server that gives the answers it was told, then 200 for ever."""

    answers: list[Answer] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    _some: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                with receiver._some:
                    receiver.received.append(Received(self.path, self.headers, raw))
                    answer = receiver.answers.pop(0) if receiver.answers else 200
                    receiver._some.notify_all()
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                # A sender that is gone, or was killed, reads no answer.
                with suppress(OSError):
                    self.send_response(status() if callable(status) else status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def wait_for(self, count: int) -> list[Received]:
        """Wait until as many requests have come."""
        with self._some:
            assert self._some.wait_for(lambda: len(self.received) >= count, timeout=30), (
                f"{len(self.received)} of {count} requests came"
            )
            return list(self.received)


@pytest.fixture
def make_receiver() -> Iterator[Callable[..., Receiver]]:
    """As many receivers as a test needs: call with the answers that each shall give."""
    made: list[Receiver] = []

    def make(*answers: Answer) -> Receiver:
        receiver = Receiver(list(answers))
        threading.Thread(target=receiver.server.serve_forever, daemon=True).start()
        made.append(receiver)
        return receiver

    yield make
    for receiver in made:
        receiver.server.shutdown()
        receiver.server.server_close()


@pytest.fixture
def receiver(make_receiver: Callable[..., Receiver]) -> Receiver:
    """One receiver."""
    return make_receiver()


@pytest.fixture(scope="session")
def engines() -> Iterator[Deployment]:
    """Postgres and Redis on which nobody delivers but the test itself."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory)) as made:
            yield made


@pytest.fixture
def calling() -> Iterator[Deployment]:
    """Engines for runs that may call this machine; start web and workers yourself."""
    settings = {"LG_WEBHOOK_TOKEN": "t0ken", "GREENROOM_WEBHOOK_SECRET": "s3cret"}
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory), project=PROJECT, **settings) as made:
            made.start_web()
            yield made


@pytest.fixture
def client(calling: Deployment) -> Iterator[httpx.Client]:
    """A client of that deployment."""
    with calling.client() as opened:
        yield opened
