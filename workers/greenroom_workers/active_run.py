"""A run on its way in this process, and why it is stopped."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from greenroom.graphs.checkpointer import FencedSaver
from greenroom.queue.life import Claim
from greenroom.queue.states import CancelAction
from greenroom_workers.protocol_run import ProtocolRun
from greenroom_workers.publisher import RunEvents
from greenroom_workers.run_loop import RunLoop
from greenroom_workers.run_threads import break_into


class Stop(Enum):
    """Why a run that has not come to its end is stopped."""

    CANCEL = auto()
    TIMEOUT = auto()
    SHUTDOWN = auto()
    LOST = auto()
    """The lease belongs to somebody else: whatever we did counts for nothing."""


@dataclass(eq=False)
class ActiveRun:
    """A run on its way in this process. Other threads stop it, nobody else touches it."""

    claim: Claim
    loop: RunLoop
    leased_at: float
    """When the lease was last asked for: it ends no earlier than its length after that."""
    events: RunEvents = field(init=False)
    protocol: ProtocolRun | None = None
    """Its events of generation 2; None while nobody has asked for its thread's."""
    saver: FencedSaver | None = None
    """None before its graph is opened, and for a run whose checkpoints nobody keeps."""
    is_concluding: bool = False
    started: float = field(default_factory=time.monotonic)
    stop: Stop | None = None
    action: CancelAction | None = None
    stopping: asyncio.Future[None] = field(init=False)
    """Done, on the run's loop, once there is a reason to stop."""
    stopped_at: float | None = None
    """When it was first asked to stop."""
    thread_ident: int = field(default_factory=threading.get_ident)
    is_abandoned: bool = False
    """It was ended from outside, because its code never gave its thread back."""
    is_work_left: bool = True
    """Another run was due before its end, or nobody has looked."""
    claims_next: bool = False
    """Another run may be claimed along with its end, for the same thread."""
    next_claim: Claim | None = None
    """What its thread is to execute after it, claimed along with its end."""
    next_leased_at: float = 0.0
    """As `leased_at`, of that."""
    _task: asyncio.Task[Any] | None = None
    _is_performing: bool = False
    _gate: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Belong to the loop."""
        self.stopping = self.loop.create_future()

    def begin(self, task: asyncio.Task[Any]) -> None:
        """Say which task to cancel; a stop that came before takes effect at once."""
        self._task = task
        if self.stop is not None:
            self._cancel()

    def request_stop(self, stop: Stop, action: CancelAction | None = None) -> None:
        """Stop the run, from any thread: the first reason counts, rollback outranks interrupt."""
        if action is not None and self.action is not CancelAction.ROLLBACK:
            self.action = action
        if self.stop is None or stop is Stop.LOST:
            self.stop = stop
            self.stopped_at = self.stopped_at or time.monotonic()
            self.call_soon(self._cancel)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have the run's loop call something, if there is still a loop."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call)

    def enter(self) -> None:
        """From here on the user's code has the thread, and may be broken into."""
        with self._gate:
            self._is_performing = True

    def leave(self) -> None:
        """The thread is ours again."""
        with self._gate:
            self._is_performing = False

    def break_in(self) -> bool:
        """Raise GraphStuck in the user's code, from another thread; False when it is not there."""
        with self._gate:
            if self._is_performing:
                break_into(self.thread_ident)
            return self._is_performing

    async def events_kept(self) -> None:
        """Wait until the logs hold what the run has told so far.

        A checkpoint comes after that: an attempt that goes on from it would not repeat what got
        lost.
        """
        await self.events.kept()
        if self.protocol is not None:
            await self.protocol.events.kept()

    def _cancel(self) -> None:
        if not self.stopping.done():
            self.stopping.set_result(None)
        if self._task is not None:
            self._task.cancel()


def flush_apart(active: ActiveRun) -> None:
    """Wait until all that a broken-off run has told is in the logs: after its end nothing is kept.

    On a loop of its own: on the run's, what was broken off would go on meanwhile.
    """
    apart = asyncio.new_event_loop()
    try:
        apart.run_until_complete(active.events.flushed())
        if active.protocol is not None:
            apart.run_until_complete(active.protocol.events.flushed())
    finally:
        apart.close()
