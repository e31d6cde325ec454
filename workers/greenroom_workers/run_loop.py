"""The event loop of a run: while it has work it keeps the interpreter, and lets it go in time."""

import asyncio
import contextlib
import contextvars
import selectors
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar, TypeVarTuple

from greenroom_workers.run_threads import RunThreads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

INTERVALS_BETWEEN_LOOKS = 2
"""How often others may ask for the interpreter between two looks of a busy loop at its sockets.

A thread that waits for it asks after one switch interval in which nobody let it go: who lets it go
more often than that, and takes it back at once, starves the others.
"""


WAKE_UP_BYTES = 4096
"""One for each wake-up that has come."""


class BusySelector(selectors.DefaultSelector):
    """Spares a busy loop most of its looks: each gives the interpreter away, at times for long."""

    def __init__(self) -> None:
        super().__init__()
        self._pause_seconds = INTERVALS_BETWEEN_LOOKS * sys.getswitchinterval()
        self._look_at = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the base class; a look that must not wait may find nothing."""
        if timeout is not None and timeout <= 0:
            now = time.monotonic()
            if now < self._look_at:
                return []
            self._look_at = now + self._pause_seconds
        return super().select(timeout)


class RunLoop(asyncio.SelectorEventLoop):
    """A loop for the thread that makes it. Others may only call what is thread-safe."""

    def __init__(self) -> None:
        super().__init__(BusySelector())
        self._maker = threading.get_ident()
        self.nodes = RunThreads()
        """The threads for what blocks."""

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As the base class; what names no executor goes to our own threads."""
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        return self.nodes.begin(self, partial(func, *args) if args else func)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As the base class, without a wake-up where the loop's own thread calls.

        So langgraph does with every custom event.
        """
        if threading.get_ident() == self._maker:
            return self.call_soon(callback, *args, context=context)
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _read_from_self(self) -> None:
        # The base class reads until there is nothing, which is known by an error, and gives the
        # interpreter away once more. What a read leaves, the next look finds.
        with contextlib.suppress(BlockingIOError, InterruptedError):
            self._ssock.recv(WAKE_UP_BYTES)  # type: ignore[attr-defined] # (asyncio's own)
