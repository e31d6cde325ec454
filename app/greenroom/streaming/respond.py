"""A stream as a Flask response: it notices a client that has left, and one that does not read."""

import errno
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from flask import Response, request
from greenlet import greenlet

from greenroom.logs import get_logger
from greenroom.streaming.outlet import RESPONSE, Answer
from greenroom.streaming.subscription import PIECE_BYTES, Subscription

log = get_logger(__name__)

READABLE = 1
"""libev's EV_READ, as gevent's loops take it."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: what the client has not read goes with the socket."""


def streamed(
    chunks: Iterator[bytes],
    subscription: Subscription,
    *,
    headers: dict[str, str],
    on_disconnect: Callable[[], None] | None = None,
) -> Response:
    """Stream `chunks`; whatever ends it, the subscription ends.

    Args:
        on_disconnect: runs when the client left before the end.
    """
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    response: Answer | None = request.environ.get(RESPONSE)
    body = _Body(chunks, connection, response, subscription, on_disconnect)
    subscription.is_kept = True
    # Passed on as it is: what a response keeps beside would be kept for as long as the stream.
    return Response(body, headers=headers, direct_passthrough=True)


class _Body:
    """The iterable that the server reads; it calls `close` at the end, finished or not.

    Also the outlet of the subscription, for what is written while the stream waits.
    """

    __slots__ = (
        *("chunks", "connection", "is_complete", "on_disconnect", "patience", "response"),
        *("subscription", "watch"),
    )

    def __init__(
        self,
        chunks: Iterator[bytes],
        connection: socket.socket | None,
        response: Answer | None,
        subscription: Subscription,
        on_disconnect: Callable[[], None] | None,
    ) -> None:
        self.chunks = chunks
        self.connection = connection
        self.response: Any = response
        self.subscription = subscription
        self.on_disconnect = on_disconnect
        self.is_complete = False
        self.patience: Any = None
        # Not a greenlet, which would double what an idle stream costs in memory.
        self.watch = None
        if connection is not None:
            self.watch = gevent.get_hub().loop.io(connection.fileno(), READABLE)
            self.watch.start(self._leave_at_eof)

    def __iter__(self) -> Iterator[bytes]:
        # Sends the headers at once: clients learn the ids of the run from them.
        yield b""
        if self.response is not None:
            self.subscription.outlet = self
        for chunk in self.chunks:
            for start in range(0, len(chunk), PIECE_BYTES):
                end = start + PIECE_BYTES
                if self.response is not None and self.subscription.is_last and end >= len(chunk):
                    self.response.is_last = True
                # The server sends the piece before it asks for the next one.
                self._begin_patience()
                yield chunk[start:end]
                self._end_patience()
        self.is_complete = not self.subscription.is_gone
        if self.subscription.is_cut:
            # A clean end would say that this was all; at this, gunicorn just closes the connection.
            raise ConnectionResetError(errno.ECONNRESET, "stream cut before its end")

    def offer(self, data: bytes) -> bytes:
        """Write as far as that goes without waiting; returns what `finish` has to send."""
        return self.response.offer(data)  # type: ignore[no-any-return]

    def finish(self, rest: bytes) -> None:
        """Send what `offer` left, while the client reads.

        Raises:
            OSError: it has left, or does not read.
        """
        self._begin_patience()
        self.response.finish(rest)
        self._end_patience()

    def close(self) -> None:
        """Stop watching, unsubscribe, and do what was asked for a client that left."""
        self._end_patience()
        self._end_watch()
        self.subscription.end()
        if self.on_disconnect and not self.is_complete and not self.subscription.is_closing:
            self.on_disconnect()

    def _begin_patience(self) -> None:
        self.patience = gevent.get_hub().loop.timer(self.subscription.patience_seconds)
        self.patience.start(self._give_up, gevent.getcurrent())

    def _end_patience(self) -> None:
        if self.patience is not None:
            self.patience.stop()
            self.patience.close()
            self.patience = None

    def _give_up(self, sender: greenlet) -> None:
        """Cut off a client that does not read: the send that waits for it ends as at a reset."""
        log.info("client dropped: it does not read", thread_id=str(self.subscription.thread_id))
        if self.connection is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sender.throw(ConnectionResetError(errno.ECONNRESET, "the client does not read"))

    def _leave_at_eof(self) -> None:
        """The client has closed its side, or sent a request ahead, which ends the watch as well."""
        if self.connection is not None and not unread_bytes(self.connection):
            self.subscription.leave()
        self._end_watch()

    def _end_watch(self) -> None:
        if self.watch is not None:
            self.watch.stop()
            self.watch.close()
            self.watch = None


def unread_bytes(connection: socket.socket) -> int:
    """What the kernel holds for us of a connection; of one that is readable, 0 means its end."""
    try:
        found = fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(found, sys.byteorder)
