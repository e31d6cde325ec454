"""One timer for all that runs of a process put off for a moment."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable

HOLD_SECONDS = 0.05
"""What a checkpoint waits for the end of its run, and an event for somebody to listen."""
TICK_SECONDS = 0.025
"""From one look to the next, each of which wakes a thread of a busy process."""


class Later:
    """Calls back on a loop after a while.

    To wake the loop for each would cost more than what is to be called.

    Args:
        hold_seconds: after how long at least.
        tick_seconds: from one look to the next: by so much it may be later.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hold_seconds: float = HOLD_SECONDS,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        self.loop = loop
        self.hold_seconds = hold_seconds
        self.tick_seconds = tick_seconds
        self._gate = threading.Lock()
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._is_ticking = False

    def call(self, call: Callable[[], None]) -> None:
        """Have something called; from any thread."""
        with self._gate:
            self._waiting.append((time.monotonic() + self.hold_seconds, call))
            was_ticking, self._is_ticking = self._is_ticking, True
        if not was_ticking:
            self.loop.call_soon_threadsafe(self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        due = list[Callable[[], None]]()
        with self._gate:
            while self._waiting and self._waiting[0][0] <= now:
                due.append(self._waiting.popleft()[1])
            self._is_ticking = bool(self._waiting)
            if self._is_ticking:
                seconds = max(self._waiting[0][0] - now, self.tick_seconds)
                self.loop.call_later(seconds, self._tick)
        for call in due:
            call()
