"""A stream as a Flask response that notices at once when its client has left."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from flask import Response, request
from gevent.socket import wait_read

from greenroom.streaming.relay import Subscription


def streamed(
    chunks: Iterator[bytes],
    subscription: Subscription,
    release: Callable[[], None],
    *,
    headers: dict[str, str],
    on_disconnect: Callable[[], None] | None = None,
) -> Response:
    """Stream `chunks`; whatever ends it, `release` runs.

    Args:
        on_disconnect: runs when the client left before the end.
    """
    watcher = gevent.spawn(_leave_at_eof, request.environ, subscription)
    return Response(_Body(chunks, watcher, release, subscription, on_disconnect), headers=headers)


class _Body:
    """The iterable that the server reads; it calls `close` at the end, finished or not."""

    def __init__(
        self,
        chunks: Iterator[bytes],
        watcher: "gevent.Greenlet[..., None]",
        release: Callable[[], None],
        subscription: Subscription,
        on_disconnect: Callable[[], None] | None,
    ) -> None:
        self.chunks = chunks
        self.watcher = watcher
        self.release = release
        self.subscription = subscription
        self.on_disconnect = on_disconnect
        self.is_complete = False

    def __iter__(self) -> Iterator[bytes]:
        # Sends the headers at once: clients learn the ids of the run from them.
        yield b""
        yield from self.chunks
        self.is_complete = not self.subscription.is_gone

    def close(self) -> None:
        """Stop watching, unsubscribe, and do what was asked for a client that left."""
        self.watcher.kill(block=False)
        self.release()
        if self.on_disconnect and not self.is_complete and not self.subscription.is_closing:
            self.on_disconnect()


def _leave_at_eof(environ: dict[str, Any], subscription: Subscription) -> None:
    """Wait until the client closes its side; a request that it sends ahead ends the watch."""
    connection: socket.socket | None = environ.get("gunicorn.socket")
    if connection is None:
        return
    try:
        wait_read(connection.fileno())
        is_open = bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        is_open = False
    if not is_open:
        subscription.leave()
