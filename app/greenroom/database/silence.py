"""How long a connection to Postgres may stay silent, told to both of its ends.

TCP gives up a peer that acknowledges nothing. It does not give up a proxy, a pooler or a server
that takes our bytes and then hangs: libpq would wait for the answer for ever, with a run, a
thread's lock or the renewal of leases in its hands.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

CONNECT_SECONDS: Final = 5
GRACE_SECONDS: Final = 1.0
"""The server ends an overlong statement first: that costs no connection."""
TICK_SECONDS: Final = 0.2
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


class Wait:
    """One wait for answers; `renew` before each of them."""

    def __init__(self, descriptor: int, seconds: float) -> None:
        # Of our own: the driver may close its descriptor, and another thread get the same number.
        self.descriptor = os.dup(descriptor)
        self.seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Begin to count anew."""
        self.give_up_at = time.monotonic() + self.seconds

    def break_off(self) -> None:
        """End both directions: whoever waits on the connection gets the driver's own error."""
        connection = socket.socket(fileno=self.descriptor)
        # It may have ended just now.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.detach()


class Watch:
    """Breaks off the waits that are overdue. One thread for a process, begun with the first."""

    def __init__(self) -> None:
        self._waits: set[Wait] = set()
        self._lock = threading.Lock()
        self._has_thread = False

    @contextmanager
    def over(self, descriptor: int, seconds: float) -> Iterator[Wait]:
        """Watch a connection during the block."""
        wait = Wait(descriptor, seconds)
        with self._lock:
            self._waits.add(wait)
            must_start, self._has_thread = not self._has_thread, True
        if must_start:
            threading.Thread(target=self._run, name="silence", daemon=True).start()
        try:
            yield wait
        finally:
            with self._lock:
                self._waits.discard(wait)
                os.close(wait.descriptor)

    def _run(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            now = time.monotonic()
            with self._lock:
                for wait in [wait for wait in self._waits if wait.give_up_at < now]:
                    self._waits.discard(wait)
                    wait.break_off()


WATCH: Final = Watch()
