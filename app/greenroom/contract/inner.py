"""Requests that come twice: to the middleware of `http.app`, and back from there to a view of ours.

They come back on a Unix socket of the web process's own, which no client can reach. That socket is
the proof: what such a request says of itself is believed, and nothing of the kind from elsewhere.
"""

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flask import request

from greenroom.auth.caller import Caller
from greenroom.graphs.passing import REQUEST_HEADER, unpack

INNER = "greenroom.inner"
"""Where the environ of such a request says so; no header of a client's can have this name."""
PACKED = f"HTTP_{REQUEST_HEADER.upper().replace('-', '_')}"
Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Inner:
    """What is known of a request that has come back."""

    caller: Caller | None
    """Who was found to call before the middleware ran; None: nobody was asked."""
    is_question: bool
    """Who calls is all that shall be answered."""


def inner_request() -> Inner | None:
    """What is known of this request from before; None: it comes from a client."""
    found: Inner | None = request.environ.get(INNER)
    return found


class WayIn:
    """Receives what comes back, as if it came from the client that the middleware has seen."""

    def __init__(self, wsgi: Wsgi, socket_path: str) -> None:
        self.wsgi = wsgi
        self.socket_path = socket_path

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Mark the request, if it comes on our socket, and have it answered."""
        connection: socket.socket | None = environ.get("gunicorn.socket")
        if (
            connection is not None
            and connection.family == socket.AF_UNIX
            and connection.getsockname() == self.socket_path
        ):
            take_over(environ)
        return self.wsgi(environ, start_response)


def take_over(environ: dict[str, Any]) -> None:
    """Believe what a request of our own socket says of itself."""
    told = unpack(environ.pop(PACKED))
    environ["wsgi.url_scheme"] = told["scheme"]
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = told["client"][0], str(told["client"][1])
    environ["SERVER_NAME"], environ["SERVER_PORT"] = told["server"][0], str(told["server"][1])
    environ[INNER] = Inner(caller_of(told["user"]), told["is_question"])


def caller_of(user: dict[str, Any] | None) -> Caller | None:
    """Who was let in, as `Guard.identify` has told it."""
    if user is None:
        return None
    return Caller(user["identity"], user, tuple(user["permissions"]))
