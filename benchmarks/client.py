"""A lean HTTP/1.1 client: it takes little of the machine that it shares with what it measures.

A connection is a Protocol that parses answers as they arrive. Server-sent events are counted on raw
bytes: nothing is decoded, no object is made for an event.
"""

import asyncio
import socket
from asyncio import Future, Transport
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, cast

import orjson
import uvloop

REQUEST_SECONDS = 120.0


class Broken(Exception):
    """The connection ended, or the time ran out, before the answer was complete."""


@dataclass(slots=True)
class Answer:
    """What came back, whole. Of a stream the body is empty."""

    status: int
    body: bytes
    first_byte: float
    """By `time.perf_counter`, as everything here."""

    @property
    def is_good(self) -> bool:
        """Whether the server did what was asked."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Decode the body; None for an empty one."""
        return orjson.loads(self.body) if self.body.strip() else None


class Events:
    """Counts the server-sent events of one stream, and notes when they came.

    Args:
        name: the event whose number is asked for.
    """

    __slots__ = ("_rest", "_wanted", "count", "errors", "first", "first_data", "last", "total")

    def __init__(self, name: str) -> None:
        self._wanted = b"\nevent: " + name.encode()
        self._rest = b"\n"
        self.count = self.errors = self.total = 0
        self.first: float | None = None
        """The first event, which most servers send as soon as they have the run."""
        self.first_data: float | None = None
        """The first one that is not metadata."""
        self.last: float | None = None

    def feed(self, received: bytes) -> None:
        """Take the next piece of the body."""
        # The last line may be half: it waits for its other half, so that no name is cut in two.
        lines, _, rest = (self._rest + received).rpartition(b"\n")
        self._rest = b"\n" + rest
        found = lines.count(b"\nevent: ")
        if not found:
            return
        self.last = perf_counter()
        self.total += found
        self.count += lines.count(self._wanted)
        self.errors += lines.count(b"\nevent: error")
        self.first = self.first or self.last
        if self.first_data is None and found > lines.count(b"\nevent: metadata"):
            self.first_data = self.last


class Connection(asyncio.Protocol):
    """One keep-alive connection, for one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.transport: Transport | None = None
        self.is_used = False
        self.opened: Future[int] | None = None
        """The status, once the head of the answer is there."""
        self._done: Future[None] | None = None
        self._expect_answer(None)

    async def request(
        self, method: str, path: str, body: Any = None, *, seconds: float = REQUEST_SECONDS
    ) -> Answer:
        """Ask, and read the whole answer.

        Raises:
            Broken: see there.
            OSError: nobody listens.
        """
        return await self._exchange(method, path, body, None, seconds)

    async def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        events: Events,
        seconds: float = 600.0,
    ) -> Answer:
        """Ask, and count events until the stream ends. Raises as `request` does."""
        return await self._exchange(method, path, body, events, seconds)

    def close(self) -> None:
        """Cut the connection, whatever it is doing."""
        if self.transport:
            self.transport.abort()
            self.transport = None

    async def _exchange(
        self, method: str, path: str, body: Any, events: Events | None, seconds: float
    ) -> Answer:
        message = self._encode(method, path, body, is_stream=events is not None)
        try:
            async with asyncio.timeout(seconds):
                await self._send(message, events)
        except TimeoutError:
            self.close()
            raise Broken(f"{method} {path} has no end after {seconds:g} s") from None
        if self._must_close:
            self.close()
        return Answer(self._status, b"".join(self._parts), self._first_byte)

    def _encode(self, method: str, path: str, body: Any, *, is_stream: bool) -> bytes:
        payload = b"" if body is None else orjson.dumps(body)
        accept = "text/event-stream" if is_stream else "*/*"
        lines = f"{method} {path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\naccept: {accept}\r\n"
        if body is not None:
            lines += f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n"
        return lines.encode() + b"\r\n" + payload

    async def _send(self, message: bytes, events: Events | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self.transport or self.transport.is_closing():
                self.is_used = False
                await loop.create_connection(
                    lambda: self, self.host, self.port, family=socket.AF_INET
                )
            self._expect_answer(events)
            self._done, self.opened = loop.create_future(), loop.create_future()
            assert self.transport
            self.transport.write(message)
            was_used, self.is_used = self.is_used, True
            try:
                await self._done
            except Broken:
                # A server may close an idle connection at the moment of its next use.
                if was_used and not self._first_byte:
                    self.close()
                    continue
                raise
            return

    def _expect_answer(self, events: Events | None) -> None:
        self._buffer = b""
        self._step: Callable[[], bool] = self._read_head
        self._left = 0
        self._status = 0
        self._must_close = False
        self._first_byte = 0.0
        self._events = events
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        # uvloop's own class is no Transport of asyncio's.
        self.transport = cast("Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits; the end of the connection may be the end of the answer, too."""
        self.transport = None
        if not self._done or self._done.done():
            return
        if self._step == self._read_until_end:
            self._finish()
        else:
            self._done.set_exception(Broken(str(exc or "closed before the end of the answer")))

    def data_received(self, data: bytes) -> None:
        """Parse as far as it goes."""
        self._first_byte = self._first_byte or perf_counter()
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer and self._step():
            pass

    def _read_head(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        self._buffer = rest
        first, *lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines if b": " in line)
        self._status = int(first.split(b" ", 2)[1])
        self._must_close = headers.get(b"connection") == b"close"
        if headers.get(b"transfer-encoding") == b"chunked":
            self._step = self._read_size
        elif b"content-length" in headers:
            self._left = int(headers[b"content-length"])
            self._step = self._read_length
        elif self._status in {204, 304}:
            self._left, self._step = 0, self._read_length
        else:
            self._step, self._must_close = self._read_until_end, True
        if self.opened and not self.opened.done():
            self.opened.set_result(self._status)
        if self._step == self._read_length and not self._left:
            self._finish()
        return True

    def _read_length(self) -> bool:
        piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._take(piece)
        self._left -= len(piece)
        if not self._left:
            self._finish()
        return False

    def _read_size(self) -> bool:
        line, end, rest = self._buffer.partition(b"\r\n")
        if not end:
            return False
        self._buffer = rest
        self._left = int(line.partition(b";")[0], 16)
        self._step = self._read_chunk if self._left else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._take(piece)
        self._left -= len(piece)
        if not self._left:
            self._step = self._read_chunk_end
        return True

    def _read_chunk_end(self) -> bool:
        if len(self._buffer) < len(b"\r\n"):
            return False
        self._buffer = self._buffer[2:]
        self._step = self._read_size
        return True

    def _read_trailer(self) -> bool:
        line, end, rest = self._buffer.partition(b"\r\n")
        if not end:
            return False
        self._buffer = rest
        if not line:
            self._finish()
        return True

    def _read_until_end(self) -> bool:
        self._take(self._buffer)
        self._buffer = b""
        return False

    def _take(self, piece: bytes) -> None:
        if self._events and self._status == 200:
            self._events.feed(piece)
        else:
            self._parts.append(piece)

    def _finish(self) -> None:
        if self._done and not self._done.done():
            self._done.set_result(None)


run = partial(asyncio.Runner, loop_factory=uvloop.new_event_loop)
"""A context in which coroutines are run."""
