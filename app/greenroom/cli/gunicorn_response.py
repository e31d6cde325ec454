"""gunicorn's response, which leaves with its headers and its first piece in one send."""

import os
import time
from functools import lru_cache
from typing import Any

from gunicorn import util
from gunicorn.http.wsgi import Response

LAST_CHUNK = b"0\r\n\r\n"

date_of = lru_cache(1)(util.http_date)
"""What the Date of an answer says, made once a second."""


class PromptResponse(Response):
    """A Response whose headers wait for what they announce.

    Stock gunicorn sends them apart: a system call, a packet and a wake-up of the client more.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.head = b""
        self.is_last = self.has_ended = False

    def default_headers(self) -> list[str]:
        """What every answer says of itself."""
        major, minor = self.req.version or (1, 1)
        ending = "close" if self.should_close() else "keep-alive"
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\n",
            f"Server: {self.version}\r\n",
            f"Date: {date_of(int(time.time()))}\r\n",
            f"Connection: {'upgrade' if self.upgrade else ending}\r\n",
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        return lines

    def send_headers(self) -> None:
        """Make the headers; the next write sends them."""
        if self.headers_sent:
            return
        lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers)]
        self.head = util.to_bytestring(f"{''.join(lines)}\r\n", "latin-1")
        self.must_close = self.should_close()
        self.headers_sent = True
        if self.chunked:
            # A stream may last for hours: nobody looks at these again.
            self.headers, self.req.headers = [], []

    def should_close(self) -> bool:
        """Whether the connection ends with the response; what its headers have said stands."""
        return self.must_close if self.headers_sent else bool(super().should_close())

    def write(self, arg: bytes) -> None:
        """Send a piece; an empty one sends the headers alone."""
        super().write(arg)
        if self.head:
            self._send(b"")

    def close(self) -> None:
        """End the body."""
        self.send_headers()
        if self.chunked:
            if not self.has_ended:
                self._send(LAST_CHUNK)
        elif self.head:
            self._send(b"")

    def sendfile(self, respiter: Any) -> bool:
        """Leave files to `write`."""
        return False

    def offer(self, data: bytes) -> bytes:
        """Send a piece as far as that goes without waiting; returns what `finish` has to send."""
        framed = self._frame(data)
        try:
            sent = os.write(self.sock.fileno(), framed)
        except OSError:
            # The client reads slowly, or has left: that is for `finish` to find out.
            return framed
        return framed[sent:]

    def finish(self, rest: bytes) -> None:
        """Send what `offer` left.

        Raises:
            OSError: the client has left.
        """
        self.sock.sendall(rest)

    def _emit_body(self, data: bytes) -> None:
        framed = self._frame(data)
        if self.is_last and self.chunked:
            framed, self.has_ended = framed + LAST_CHUNK, True
        self._send(framed)

    def _frame(self, data: bytes) -> bytes:
        return b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data

    def _send(self, data: bytes) -> None:
        head, self.head = self.head, b""
        whole = head + data if head else data
        # gevent's sendall asks first what kind of socket it has.
        if (sent := self.sock.send(whole)) < len(whole):
            self.sock.sendall(memoryview(whole)[sent:])
