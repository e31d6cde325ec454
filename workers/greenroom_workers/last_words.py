"""How the ends of runs are told: written to Redis from the run's own thread, and not waited for."""

import threading
import time
from collections.abc import Sequence

import redis

from greenroom.logs import get_logger
from greenroom.signals.connection import SILENCE_SECONDS

log = get_logger(__name__)

MANY = 32
"""So many answers are read at once."""
STALE_SECONDS = 1.0
"""After such a rest it is looked whether the connection still stands."""


class LastWords:
    """One connection for all runs of a process; any thread may use it.

    To wake the I/O thread and to wait for Redis is a fifth of a worker's work on short runs, and
    nobody needs the answer: nothing of the run follows. What a dying connection takes along, the
    relays' watchdog finds out.
    """

    def __init__(self, client: redis.Redis) -> None:
        """Open nothing yet; `client` says where."""
        self._connection = client.connection_pool.make_connection()
        self._lock = threading.Lock()
        self._unread = 0
        self._used_at = 0.0
        self._heard_at = 0.0

    def send(self, channel: str, messages: Sequence[bytes]) -> bool:
        """Publish messages, in order; False: that did not work, and may on another connection."""
        commands = [("PUBLISH", channel, message) for message in messages]
        with self._lock:
            try:
                self._look()
                packed = self._connection.pack_commands(commands)
                self._connection.send_packed_command(packed, check_health=False)
            except (redis.RedisError, OSError) as error:
                log.debug("last words not sent", channel=channel, error=repr(error))
                self._give_up()
                return False
            self._unread += len(commands)
        return True

    def close(self) -> None:
        """Wait until Redis has taken everything, and close."""
        with self._lock:
            try:
                while self._unread:
                    self._read()
            except (redis.RedisError, OSError) as error:
                log.debug("last words not answered", error=repr(error))
            self._give_up()

    def _look(self) -> None:
        """Read what Redis has answered, now and then.

        Raises:
            redis.RedisError: the connection is dead, or seems so.
        """
        now = time.monotonic()
        is_stale, self._used_at = now - self._used_at > STALE_SECONDS, now
        if not self._unread:
            # Nothing was to be heard until now.
            self._heard_at = now
        if not is_stale and self._unread < MANY:
            return
        while self._connection.can_read(0):
            self._read()
            self._heard_at = now
        if self._unread >= MANY and now - self._heard_at > SILENCE_SECONDS:
            raise redis.TimeoutError("nothing answered")

    def _read(self) -> None:
        try:
            self._connection.read_response()
        except redis.ResponseError as error:
            # Refused, and the next may be taken: memory, a rule of who may publish.
            log.debug("last words refused", error=repr(error))
        self._unread = max(0, self._unread - 1)

    def _give_up(self) -> None:
        self._connection.disconnect()
        self._unread = 0
