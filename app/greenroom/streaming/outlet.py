"""The way to a client whose greenlet waits: it can be written to from any other."""

from typing import Protocol

RESPONSE = "greenroom.response"
"""In an environ: the server's response, if it is an Answer."""


class Outlet(Protocol):
    """A connection in the middle of its answer."""

    def offer(self, data: bytes) -> bytes:
        """Write as far as that goes without waiting; returns what `finish` has to send."""

    def finish(self, rest: bytes) -> None:
        """Send what `offer` left, in the client's own greenlet, as fast as the client reads.

        Raises:
            OSError: the client has left, or does not read.
        """


class Answer(Outlet, Protocol):
    """The answer itself, as the server has it."""

    is_last: bool
    """Set before the last piece is written: the end of the answer leaves with it."""
