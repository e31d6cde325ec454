"""A TCP proxy that misbehaves on demand: latency, resets, silence, one-way partitions."""

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit, urlunsplit

CHUNK_BYTES = 64 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: close sends RST."""


@dataclass(eq=False)
class Flow:
    """One direction of one connection."""

    source: socket.socket
    target: socket.socket
    is_request: bool
    """From the process under test to the engine."""
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    """What is under way: (when it is due, the bytes); no bytes is the end of the stream."""


class Proxy:
    """Stands between processes and an engine; a context manager.

    Requests flow from the processes to the engine, answers back. A swallowed direction loses its
    bytes for good, as a dead network does: neither side is told, connections stay open.
    """

    def __init__(self, uri: str) -> None:
        self.parts = urlsplit(uri)
        self.latency_seconds = 0.0
        """Added to each direction."""
        self._swallowed: set[bool] = set()
        self._refuses = False
        self._flows: list[Flow] = []
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wakeup, self._wakeup_in = socket.socketpair()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def uri(self) -> str:
        """The engine's URI through the proxy."""
        port = self._listener.getsockname()[1]
        host = self.parts.netloc.rpartition("@")
        netloc = f"{host[0]}{host[1]}127.0.0.1:{port}"
        return urlunsplit(self.parts._replace(netloc=netloc))

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._wakeup_in.send(b"\0")
        self._thread.join(timeout=10)
        with self._lock:
            for flow in self._flows:
                flow.source.close()
        for part in (self._listener, self._wakeup, self._wakeup_in):
            part.close()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._flows) // 2

    def partition(self, *, requests: bool = True, answers: bool = True) -> None:
        """Swallow requests, answers or both, silently, also those of new connections."""
        self._swallowed = {
            is_request for is_request, on in ((True, requests), (False, answers)) if on
        }

    def refuse(self) -> None:
        """Reset what is open and whatever comes, as a host does that has lost its server."""
        self._refuses = True
        self.reset()

    def heal(self) -> None:
        """Carry everything again. Connections that lost bytes are reset, as TCP would do it."""
        was_partitioned, self._swallowed, self._refuses = bool(self._swallowed), set(), False
        self.latency_seconds = 0.0
        if was_partitioned:
            self.reset()

    def reset(self) -> None:
        """Cut every open connection with a reset."""
        with self._lock:
            flows = list(self._flows)
        for flow in flows:
            self._drop(flow)

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(self._next_due()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wakeup:
                    self._wakeup.recv(64)
                else:
                    self._read(key.data)
            self._deliver()

    def _next_due(self) -> float:
        due = [flow.waiting[0][0] for flow in self._flows if flow.waiting]
        return max(0.0, min(due) - time.monotonic()) if due else 0.5

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            address = (self.parts.hostname or "127.0.0.1", self.parts.port or 0)
            engine = None if self._refuses else socket.create_connection(address, timeout=5)
        except OSError:
            engine = None
        if engine is None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            return
        for end in (client, engine):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(5)
        pair = [Flow(client, engine, is_request=True), Flow(engine, client, is_request=False)]
        with self._lock:
            self._flows += pair
        for flow in pair:
            self._selector.register(flow.source, selectors.EVENT_READ, flow)

    def _read(self, flow: Flow) -> None:
        try:
            chunk = flow.source.recv(CHUNK_BYTES)
        except OSError:
            self._drop(flow)
            return
        if flow.is_request not in self._swallowed:
            flow.waiting.append((time.monotonic() + self.latency_seconds, chunk))
        if not chunk:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(flow.source)

    def _deliver(self) -> None:
        now = time.monotonic()
        for flow in list(self._flows):
            while flow.waiting and flow.waiting[0][0] <= now:
                _, chunk = flow.waiting.popleft()
                try:
                    if chunk:
                        flow.target.sendall(chunk)
                    else:
                        self._drop(flow, is_reset=False)
                except OSError:
                    self._drop(flow)
                    break

    def _drop(self, flow: Flow, *, is_reset: bool = True) -> None:
        with self._lock:
            pair = [one for one in self._flows if one.source in {flow.source, flow.target}]
            self._flows = [one for one in self._flows if one not in pair]
        for one in pair:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(one.source)
            with contextlib.suppress(OSError):
                if is_reset:
                    one.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.source.close()
