"""The threads in which a run's sync nodes work, and the way to break into code that hangs."""

import asyncio
import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

LARGEST_FAN_OUT = 32
"""Sync nodes of one run that work at the same time."""


class GraphStuck(BaseException):
    """Raised inside user code that blocks its thread after its run was asked to stop.

    No Exception: code that retries whatever fails must not retry this.
    """


@dataclass(frozen=True, slots=True)
class Work:
    """One call, and who waits for it on which loop."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    call: Callable[[], Any]

    def do(self) -> tuple[Any, BaseException | None]:
        """What came of it; nothing is left for a future to be surprised by."""
        try:
            return self.call(), None
        except StopIteration as error:
            # A future refuses it, because it would end whoever awaits.
            stopped = RuntimeError("a sync node raised StopIteration")
            stopped.__cause__ = error
            return None, stopped
        except BaseException as error:  # noqa: BLE001 (it goes to whoever awaits)
            return None, error

    def tell(self, result: Any, error: BaseException | None) -> None:
        """Settle the future, from any thread. A loop that is closed has nobody who waits."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


@dataclass(eq=False, slots=True)
class Node:
    """A thread that waits for its next work; without any it ends."""

    work: Work | None
    called: threading.Lock = field(default_factory=threading.Lock)
    """Held while there is nothing to do."""

    def __post_init__(self) -> None:
        """Begin with what is given."""
        self.called.acquire()

    def call(self, work: Work | None) -> None:
        """Wake it."""
        self.work = work
        self.called.release()

    def take(self) -> Work | None:
        """What it was called for. It is not kept: it would keep its loop, and so us."""
        work, self.work = self.work, None
        return work


class RunThreads:
    """What a run's loop has for calls that block; knows which of its threads are at work.

    A ThreadPoolExecutor with its futures, conditions and callbacks takes three times the
    interpreter's time, and most nodes of most graphs are such calls.
    """

    def __init__(self) -> None:
        self.busy: set[int] = set()
        """The threads that are at work."""
        self._gate = threading.Lock()
        self._idle: list[Node] = []
        self._count = 0
        self._waiting: deque[Work] = deque()
        weakref.finalize(self, end_all, self._idle).atexit = False

    def begin(
        self, loop: asyncio.AbstractEventLoop, call: Callable[[], Any]
    ) -> asyncio.Future[Any]:
        """Have a thread call something; on the loop that gets the future."""
        work = Work(loop, loop.create_future(), call)
        with self._gate:
            node = self._idle.pop() if self._idle else None
            if node is None:
                if self._count >= LARGEST_FAN_OUT:
                    self._waiting.append(work)
                    return work.future
                self._count += 1
        if node is None:
            arguments = weakref.ref(self), Node(work), self.busy
            threading.Thread(target=serve, args=arguments, name="node", daemon=True).start()
        else:
            node.call(work)
        return work.future

    def shutdown(self) -> None:
        """Begin nothing more of what waits; threads end as soon as they are idle."""
        self._waiting.clear()
        with self._gate:
            end_all(self._idle)

    def next_for(self, node: Node) -> Work | None:
        """What a thread is to do next; None: it is idle from now on, and will be called."""
        with self._gate:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(node)
            return None


def serve(threads: "weakref.ref[RunThreads]", node: Node, busy: set[int]) -> None:
    """Be one of the threads. Nobody is kept alive by a thread that waits."""
    ident, work = threading.get_ident(), node.take()
    while work is not None:
        result: Any = None
        error: BaseException | None = None
        if not work.future.cancelled():
            busy.add(ident)
            try:
                result, error = work.do()
            finally:
                busy.discard(ident)
        owner = threads()
        # Before whoever waits is told: the next call shall find this thread.
        after = owner.next_for(node) if owner is not None else None
        work.tell(result, error)
        is_alone = owner is None
        work, owner, result, error = after, None, None, None
        if is_alone:
            return
        if work is None:
            node.called.acquire()
            work = node.take()


def end_all(idle: list[Node]) -> None:
    """Let threads that wait end."""
    while idle:
        idle.pop().call(None)


def break_into(thread_ident: int) -> None:
    """Raise GraphStuck in a thread at its next bytecode; code that waits in C is not reached."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_ident), ctypes.py_object(GraphStuck)
    )
