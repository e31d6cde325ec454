"""How long a connection to Postgres may stay silent, told to both of its ends.

TCP gives up a peer that acknowledges nothing. It does not give up a proxy, a pooler or a server
that takes our bytes and then hangs: libpq would wait for the answer for ever, with a run, a
thread's lock or the renewal of leases in its hands.
"""

import math
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final, Self
from weakref import WeakSet

CONNECT_SECONDS: Final = 5
GRACE_SECONDS: Final = 1.0
"""The server ends an overlong statement first: that costs no connection."""
TICK_SECONDS: Final = 0.2
"""Between two looks at the least."""
LONGEST_SECONDS: Final = 60.0
"""Until the next look of a process without connections."""
IDLE_TRANSACTION_SECONDS: Final = 5
"""Half a lease: the locks of a process that is paused or cut off cost nobody else his leases."""
KEEPALIVE: Final = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
SERVER_SIDE: Final = {
    # Instants leave Postgres with +00:00, whatever zone it is set to.
    "TimeZone": "UTC",
    "idle_in_transaction_session_timeout": IDLE_TRANSACTION_SECONDS * 1000,
    # A server waits two hours for a host that is gone, and keeps its locks meanwhile.
    "tcp_keepalives_idle": 15,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def session(application_name: str, statement_seconds: float) -> dict[str, Any]:
    """What every connection of ours is opened with, psycopg's and psycopg2's alike."""
    settings = {**SERVER_SIDE, "statement_timeout": round(statement_seconds * 1000)}
    return {
        **KEEPALIVE,
        "application_name": application_name,
        "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
    }


class Line:
    """A connection whose silence has an end. `with` a line, it is waited for an answer.

    Close it with its connection; one that nobody has any more closes itself.
    """

    def __init__(self, descriptor: int, seconds: float) -> None:
        # Of our own: the driver may close its descriptor, and another thread get the same number.
        self.descriptor: int | None = os.dup(descriptor)
        self.seconds = seconds
        self.give_up_at = math.inf
        WATCH.add(self)

    def __enter__(self) -> Self:
        """Begin to count."""
        self.give_up_at = time.monotonic() + self.seconds
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody waits: it may be silent for as long as it likes."""
        self.give_up_at = math.inf

    def __del__(self) -> None:
        """Leave no descriptor behind."""
        self._close()

    def renew(self) -> None:
        """Count anew, if somebody waits."""
        if self.give_up_at != math.inf:
            self.give_up_at = time.monotonic() + self.seconds

    def break_off(self) -> None:
        """End both directions: whoever waits on the connection gets the driver's own error."""
        self.give_up_at = math.inf
        if self.descriptor is None:
            return
        connection = socket.socket(fileno=self.descriptor)
        # It may have ended just now.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.detach()

    def close(self) -> None:
        """The connection goes."""
        with WATCH.lock:
            self._close()

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class Watch:
    """Breaks off the waits that are overdue. One thread for a process, begun with the first line.

    It sleeps until the first moment at which a wait can be overdue: one that begins after its look
    lasts as long as its line allows, and a renewed one longer than it was.

    A wait costs its line two assignments: what let go of the interpreter's lock here, for a
    descriptor or a lock of ours, would hand it to another run's thread at each statement.
    """

    def __init__(self) -> None:
        self._lines: WeakSet[Line] = WeakSet()
        self._has_thread = False
        self._look_at = math.inf
        self._hurry = threading.Event()
        # A collection in the middle of `add` may close connections that nobody has any more.
        self.lock = threading.RLock()

    def add(self, line: Line) -> None:
        """Watch a line for as long as somebody has it."""
        with self.lock:
            self._lines.add(line)
            if time.monotonic() + line.seconds < self._look_at:
                self._hurry.set()
            must_start, self._has_thread = not self._has_thread, True
        if must_start:
            threading.Thread(target=self._run, name="silence", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._hurry.wait(self._look() - time.monotonic())
            # Not more often, whoever hurries us.
            time.sleep(TICK_SECONDS)

    def _look(self) -> float:
        """Break off what is overdue; when to look again."""
        with self.lock:
            self._hurry.clear()
            now = self._look_at = time.monotonic()
            for line in self._lines:
                if line.give_up_at < now:
                    line.break_off()
            self._look_at += min(
                (min(line.give_up_at - now, line.seconds) for line in self._lines),
                default=LONGEST_SECONDS,
            )
            return self._look_at


WATCH: Final = Watch()
