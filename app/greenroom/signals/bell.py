"""The bell: a list of sentinels that say "look", never what to look at."""

import re
from collections.abc import Iterable
from typing import Final

import redis

from greenroom.signals.straight import Straight

QUEUE: Final = "runs"
ACTOR: Final = "execute_due_runs"
LONGEST_QUEUE: Final = 1000
"""Sentinels beyond this many say nothing new: workers drain the table, not the list."""
LOOK: Final = b"look"
FAILED_LOOK: Final = re.compile(rb"look ([0-9]{1,3})")


class Bell:
    """Wakes workers. Losing a ring costs one sweep interval, an extra one a cheap query."""

    def __init__(self, client: redis.Redis, namespace: str, *, is_alone: bool = False) -> None:
        """Open nothing yet.

        Args:
            is_alone: one greenlet rings at a time, so that a connection can be kept for it.
        """
        self.client = client
        self.list = f"{namespace}:{QUEUE}"
        self._length = 0
        """Of the list, when Redis last told."""
        self._straight = Straight(client) if is_alone else None

    def ring(self, times: int = 1) -> None:
        """Put so many sentinels on the list, in one round trip, unless it is long enough.

        Raises:
            redis.RedisError: Redis is away; the sweep will find the run.
        """
        if self._length > LONGEST_QUEUE:
            self._length = self._ask("LLEN", self.list)
        if times and self._length <= LONGEST_QUEUE:
            self.put([LOOK] * times)

    def put(self, sentinels: Iterable[bytes]) -> None:
        """Put sentinels on the list, of which there is at least one.

        Raises: as `ring`.
        """
        self._length = self._ask("RPUSH", self.list, *sentinels)

    def _ask(self, *command: str | bytes) -> int:
        if self._straight is None:
            length: int = self.client.execute_command(*command)
        else:
            (length,) = self._straight.ask(command)
        return length


def make_sentinel(failures: int) -> bytes:
    """A sentinel for a look that has failed so often before."""
    return b"%b %d" % (LOOK, failures) if failures else LOOK


def read_sentinel(sentinel: bytes) -> int:
    """How often the look has failed before: 0 for whatever else may be on the list."""
    found = FAILED_LOOK.fullmatch(sentinel)
    return int(found[1]) if found else 0
