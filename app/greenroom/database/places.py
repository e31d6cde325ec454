"""A fixed number of places, and the line of those who wait for one."""

import queue
from typing import Generic, TypeVar

T = TypeVar("T")


class Places(Generic[T]):
    """Places for connections: each is empty (None), or has what its last user left in it.

    Whoever comes while all are taken waits in line, and is handed the next that is left. The line
    of SQLAlchemy's own pool, a condition and its locks, took a twelfth of the web process's time
    with 20 clients on 10 connections.

    No lock of ours: each step is one call of a list or of a queue, and a place that is handed on
    while the one who waits has found another is taken by the next who finds none.
    """

    def __init__(self, count: int) -> None:
        self._free: list[T | None] = [None] * count
        """Empty ones first, so that what is left is used again, and last what was left last."""
        # By the module: a web process that has been forked is patched by gevent only then.
        self._handed: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self.waiting: list[None] = []
        """As many as wait."""

    def take(self, seconds: float) -> T | None:
        """Take a place, rather one with something in it; what that is.

        Raises:
            queue.Empty: there was none for so long.
        """
        return self._take(-1, seconds)

    def take_empty(self, seconds: float) -> T | None:
        """As `take`, but rather an empty one."""
        return self._take(0, seconds)

    def give(self, left: T | None) -> None:
        """Leave a place, with something in it or empty."""
        if left is None:
            self._free.insert(0, None)
        else:
            self._free.append(left)
        if self.waiting:
            self._hand_on()

    def clear(self) -> list[T]:
        """Take out whatever is in places that are free; nobody may wait."""
        while not self._handed.empty():
            self.give(self._handed.get_nowait())
        left = [one for one in self._free if one is not None]
        self._free[:] = [None] * len(self._free)
        return left

    def _take(self, end: int, seconds: float) -> T | None:
        try:
            return self._free.pop(end)
        except IndexError:
            pass
        self.waiting.append(None)
        try:
            # Who left a place before we stood in line has handed it to nobody.
            return self._free.pop(end)
        except IndexError:
            return self._handed.get(timeout=seconds)
        finally:
            self.waiting.pop()

    def _hand_on(self) -> None:
        try:
            self._handed.put(self._free.pop())
        except IndexError:
            # Somebody was faster.
            return
