"""The threads in which a run's sync nodes work, and the way to break into code that hangs."""

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

LARGEST_FAN_OUT = 32
"""Sync nodes of one run that work at the same time."""


class GraphStuck(BaseException):
    """Raised inside user code that blocks its thread after its run was asked to stop.

    No Exception: code that retries whatever fails must not retry this.
    """


class RunThreads(ThreadPoolExecutor):
    """A loop's default executor that knows which of its threads are at work."""

    def __init__(self) -> None:
        super().__init__(LARGEST_FAN_OUT, thread_name_prefix="node")
        self.busy: set[int] = set()
        """The threads that are at work."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See the base class."""

        def work() -> Any:
            ident = threading.get_ident()
            self.busy.add(ident)
            try:
                return fn(*args, **kwargs)
            finally:
                self.busy.discard(ident)

        return super().submit(work)


def break_into(thread_ident: int) -> None:
    """Raise GraphStuck in a thread at its next bytecode; code that waits in C is not reached."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_ident), ctypes.py_object(GraphStuck)
    )
