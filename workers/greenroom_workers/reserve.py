"""A second worker process that costs nothing before it is needed.

One interpreter executes runs on one core. `greenroom dev` forks a second process beside the worker
and leaves it asleep: most of its memory is shared. The worker calls it when runs have been waiting
for a while and its own interpreter is what they wait for; from then on the two share the slots.
"""

import os
import threading
import time
from contextlib import suppress
from typing import Final

from greenroom.logs import get_logger

log = get_logger(__name__)

BEHIND_SECONDS: Final = 0.5
"""For so long each run that ended has left another waiting: less is not worth a process."""
BUSY_CORES: Final = 0.3
"""Of a core, what the process has used meanwhile. With less, its runs wait for something else."""


class Reserve:
    """The worker's side: when to call the other process, and how many slots to give up for it.

    Args:
        slots: what the other process offers, and this one meanwhile.
        fd: the writing end of the pipe at which the other waits; it also wakes when we die.
    """

    def __init__(self, slots: int, fd: int) -> None:
        self.slots = slots
        """What is still ours of the other's."""
        self._fd = fd
        self._is_called = False
        self._behind_since = 0.0
        """By the monotonic clock; 0 while nothing waits."""
        self._spent_before = 0.0
        self._lock = threading.Lock()

    def note_end(self, *, is_work_left: bool) -> None:
        """Told of each end of a run, and whether another was due by then."""
        with self._lock:
            if not self._is_called and self._is_needed(is_work_left=is_work_left):
                self._call()

    @property
    def wants_slot(self) -> bool:
        """Whether a thread is to end with the run that it executes."""
        return self._is_called and self.slots > 0

    def takes_slot(self) -> bool:
        """Asked by a thread that executes nothing: whether it shall end."""
        with self._lock:
            if not self.wants_slot:
                return False
            self.slots -= 1
            return True

    def _is_needed(self, *, is_work_left: bool) -> bool:
        if not is_work_left:
            self._behind_since = 0.0
            return False
        now = time.monotonic()
        if not self._behind_since:
            self._behind_since, self._spent_before = now, time.process_time()
            return False
        seconds = now - self._behind_since
        if seconds < BEHIND_SECONDS:
            return False
        if time.process_time() - self._spent_before >= BUSY_CORES * seconds:
            return True
        self._behind_since = 0.0
        return False

    def _call(self) -> None:
        self._is_called = True
        log.info("second worker process called", slots=self.slots)
        # Dead, it has been started anew, and is at work.
        with suppress(BrokenPipeError):
            os.write(self._fd, b"\0")
        os.close(self._fd)


def await_call(fd: int) -> None:
    """Sleep until the worker calls or is gone."""
    os.read(fd, 1)
    os.close(fd)
