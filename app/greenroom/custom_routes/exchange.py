"""One request to the owner's application in the graphs process, and its answer, piece by piece.

For gevent: one greenlet may send the request's body while another reads the answer.
"""

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import h11

from greenroom.errors import AppError, BadRequest, BodyTooLarge, GraphsUnavailable
from greenroom.graphs.passing import MAX_HEAD_BYTES

PIECE_BYTES = 64 * 1024
CONNECT_PATIENCE_SECONDS = 5.0
"""How long a request waits for a graphs process that restarts."""
RECONNECT_PAUSE_SECONDS = 0.05


class Exchange:
    """One connection, for one request. Close it, whatever happens."""

    def __init__(self, socket_path: str) -> None:
        """Connect.

        Raises:
            GraphsUnavailable: the graphs process is not there.
        """
        self.socket = connect(socket_path)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.fault: AppError | None = None
        """Why it was cut; None where it was not."""

    def send_head(self, head: h11.Request) -> None:
        """Send what stands before the body.

        Raises:
            BadRequest: it cannot be said in HTTP.
            GraphsUnavailable: the graphs process has gone.
        """
        try:
            self.socket.sendall(self._http.send(head) or b"")
        except h11.LocalProtocolError as error:
            raise BadRequest("the request's head cannot be passed on") from error
        except OSError as error:
            raise GraphsUnavailable("the graphs process broke off the request") from error

    def send_body(self, read: Callable[[int], bytes], largest_bytes: int) -> None:
        """Pass the body on; where that cannot be done, cut the exchange.

        Args:
            read: gives at most so many bytes, none at the end.
        """
        sent = 0
        while True:
            try:
                piece = read(PIECE_BYTES)
                sent += len(piece)
                data = self._http.send(h11.Data(piece) if piece else h11.EndOfMessage())
            except (OSError, h11.LocalProtocolError):
                # The client left in the middle: there is less of it than was promised.
                self.cut(BadRequest("the request ended before its body did"))
                return
            if sent > largest_bytes:
                self.cut(BodyTooLarge("Request Entity Too Large"))
                return
            try:
                self.socket.sendall(data or b"")
            except OSError:
                # It was answered before it was read, or the process has gone: the answer tells.
                return
            if not piece:
                return

    def receive_head(self) -> h11.Response | h11.InformationalResponse:
        """Wait for the answer: its head, or 101, after which the connection is a WebSocket's.

        Raises:
            AppError: the exchange was cut, for this reason.
            GraphsUnavailable: the graphs process broke off.
        """
        switching = 101
        try:
            while True:
                event = self._next()
                if isinstance(event, h11.Response):
                    return event
                if isinstance(event, h11.InformationalResponse) and event.status_code == switching:
                    return event
                if isinstance(event, h11.ConnectionClosed):
                    break
        except h11.RemoteProtocolError as error:
            raise self.fault or GraphsUnavailable(
                "the graphs process broke off the answer"
            ) from error
        raise self.fault or GraphsUnavailable("the graphs process gave no answer")

    def receive_body(self) -> Iterator[bytes]:
        """What follows the head, as it comes.

        Raises:
            ConnectionResetError: it ended before its end.
        """
        try:
            while isinstance(event := self._next(), h11.Data):
                yield bytes(event.data)
        except h11.RemoteProtocolError as error:
            # The number tells gunicorn that there is nothing to complain of.
            raise ConnectionResetError(errno.ECONNRESET, "the answer was broken off") from error

    def rest(self) -> bytes:
        """What came after the answer's head, on a WebSocket."""
        return bytes(self._http.trailing_data[0])

    def cut(self, fault: AppError) -> None:
        """Tell both the application and whoever waits for it that this is over; never blocks."""
        self.fault = self.fault or fault
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the connection go: the application, if it is not done, is told of a disconnect."""
        self.socket.close()

    def _next(self) -> h11.Event:
        while not isinstance(event := self._http.next_event(), h11.Event):
            try:
                data = self.socket.recv(PIECE_BYTES)
            except OSError:
                data = b""
            self._http.receive_data(data)
        return event


def connect(socket_path: str) -> socket.socket:
    """Connect to the owner's application; without a time limit, which only the owner could know.

    Raises:
        GraphsUnavailable: nobody listens there, for some seconds.
    """
    give_up_at = time.monotonic() + CONNECT_PATIENCE_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(socket_path)
        except OSError as error:
            connection.close()
            if time.monotonic() >= give_up_at:
                raise GraphsUnavailable("the graphs process is not running") from error
            time.sleep(RECONNECT_PAUSE_SECONDS)
        else:
            return connection
