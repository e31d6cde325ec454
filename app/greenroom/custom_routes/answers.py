"""Answers of the owner's application, on their way to a client that may leave or not read."""

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import h11
from flask import Response, request
from greenlet import greenlet

from greenroom.config import Config
from greenroom.custom_routes.exchange import PIECE_BYTES, Exchange
from greenroom.errors import BadRequest, GraphsUnavailable
from greenroom.graphs.passing import DROPPED
from greenroom.logs import get_logger
from greenroom.streaming import shutdown
from greenroom.streaming.respond import READABLE, RESET, unread_bytes

log = get_logger(__name__)

MISSED_HEARTBEATS = 6
"""A client that takes nothing for so many is given up, as on our own streams."""


class CustomAnswers:
    """Makes the answers of one web process, and ends the endless ones when it stops."""

    def __init__(self, config: Config) -> None:
        self.patience_seconds = config.heartbeat_seconds * MISSED_HEARTBEATS
        self._endless: set[Exchange] = set()
        shutdown.register(self._end)

    def respond(
        self, exchange: Exchange, read: Callable[[int], bytes], largest_bytes: int
    ) -> Response:
        """Send the request's body and give the answer, which may begin before that has ended."""
        watch = ClientWatch(request.environ.get("gunicorn.socket"), exchange)

        def upload() -> None:
            exchange.send_body(read, largest_bytes)
            # Not before: what can be read until then is the body.
            watch.start()

        sender = gevent.spawn(upload)

        def end() -> None:
            sender.kill()
            watch.stop()

        try:
            return self.give(exchange, exchange.receive_head(), end)
        except BaseException:
            end()
            raise

    def give(
        self,
        exchange: Exchange,
        head: h11.Response | h11.InformationalResponse,
        end: Callable[[], None] | None,
    ) -> Response:
        """Pass an answer on, head by now and body as it comes."""
        body = _Body(self, exchange, end)
        response = Response(body, head.status_code, direct_passthrough=True)
        response.headers.clear()
        for name, value in head.headers:
            if (text := name.decode("latin-1")) not in DROPPED:
                response.headers.add(text, value.decode("latin-1"))
        if response.mimetype == "text/event-stream":
            self.keep(exchange)
        return response

    def keep(self, exchange: Exchange) -> None:
        """Remember what has no end of its own."""
        self._endless.add(exchange)

    def forget(self, exchange: Exchange) -> None:
        """It has ended."""
        self._endless.discard(exchange)

    def _end(self) -> None:
        for exchange in list(self._endless):
            exchange.cut(GraphsUnavailable("the server stops"))


class ClientWatch:
    """Cuts an exchange when its client closes the connection; not a greenlet, for its memory."""

    def __init__(self, connection: socket.socket | None, exchange: Exchange) -> None:
        self.connection = connection
        self.exchange = exchange
        self._watch: Any = None
        self._is_over = False

    def start(self) -> None:
        """Begin, unless it is over."""
        if self.connection is not None and not self._is_over:
            self._watch = gevent.get_hub().loop.io(self.connection.fileno(), READABLE)
            self._watch.start(self._cut_at_eof)

    def stop(self) -> None:
        """End for good."""
        self._is_over = True
        if self._watch is not None:
            self._watch.stop()
            self._watch.close()
            self._watch = None

    def _cut_at_eof(self) -> None:
        # A request that was sent ahead is readable, too, and ends the watch.
        if self.connection is not None and not unread_bytes(self.connection):
            self.exchange.cut(BadRequest("the client has left"))
        self.stop()


class _Body:
    """The iterable that the server reads; it calls `close` at the end, finished or not."""

    def __init__(
        self, answers: CustomAnswers, exchange: Exchange, end: Callable[[], None] | None
    ) -> None:
        self.answers = answers
        self.exchange = exchange
        self.end = end
        self.connection: socket.socket | None = request.environ.get("gunicorn.socket")
        self.path = request.path
        self.patience = gevent.get_hub().loop.timer(answers.patience_seconds)

    def __iter__(self) -> Iterator[bytes]:
        # Sends the head at once.
        yield b""
        sender = gevent.getcurrent()
        for piece in self.exchange.receive_body():
            # The server sends the piece before it asks for the next one.
            self.patience.start(self._give_up, sender)
            yield piece
            self.patience.stop()

    def close(self) -> None:
        """Let everything go."""
        self.patience.stop()
        self.patience.close()
        if self.end is not None:
            self.end()
        self.answers.forget(self.exchange)
        self.exchange.close()

    def _give_up(self, sender: greenlet) -> None:
        log.info("client dropped: it does not read", path=self.path)
        if self.connection is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sender.throw(ConnectionResetError(errno.ECONNRESET, "the client does not read"))


class TunnelResponse(Response):
    """A WebSocket between the client and the application: bytes, which nobody here reads."""

    def __init__(
        self, exchange: Exchange, head: h11.InformationalResponse, answers: CustomAnswers
    ) -> None:
        super().__init__(status=101)
        self.exchange = exchange
        self.head = head
        self.answers = answers

    def __call__(self, environ: Any, _start_response: Any) -> Iterable[bytes]:
        """Pass bytes on until a side closes, then have gunicorn close without an answer."""
        client: socket.socket = environ["gunicorn.socket"]
        # Nothing is sent on behalf of a client whose machine has gone: the system asks for it.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.answers.keep(self.exchange)
        back = gevent.spawn(pass_on, client, self.exchange.socket)
        try:
            with suppress(OSError):
                client.sendall(handshake(self.head) + self.exchange.rest())
                pass_on(self.exchange.socket, client)
        finally:
            back.kill()
            self.answers.forget(self.exchange)
            self.exchange.close()
        # gunicorn's own word for a connection that somebody else has taken over.
        raise StopIteration


def handshake(head: h11.InformationalResponse) -> bytes:
    """The answer that opens a WebSocket, as bytes."""
    lines = [b"HTTP/1.1 101 Switching Protocols"]
    lines += [b"%b: %b" % (bytes(name), bytes(value)) for name, value in head.headers]
    return b"\r\n".join([*lines, b"", b""])


def pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Copy until either side ends; then end both."""
    with suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
