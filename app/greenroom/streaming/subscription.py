"""What one client has yet to read of a thread, and how it gets that."""

import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self
from uuid import UUID

import gevent
from gevent.hub import Waiter

from greenroom.streaming.frames import HEARTBEAT, Batch, Chosen, Kind
from greenroom.streaming.outlet import Outlet

LARGEST_BACKLOG_BYTES = 32 * 1024 * 1024
"""What one slow client may leave unread before it is dropped. A single event may be larger."""
LARGEST_TAKE_BYTES = 1024 * 1024
"""What a client gets at once: the rest stays in its backlog, where it is counted."""
PIECE_BYTES = 64 * 1024
"""What a client must read within its patience: with that, the slowest line that we serve."""


@dataclass(eq=False, slots=True)
class Tally:
    """What a process keeps for its clients."""

    backlog_bytes: int = 0


class Listening(Protocol):
    """Where a subscription was made: the process's relay."""

    tally: Tally
    patience_seconds: float

    def part(self, subscription: "Subscription") -> None:
        """Send a subscription no more."""


Show = Callable[[Batch, Chosen], bytes | None]
"""What a client gets of a batch; None where that takes a look at Postgres, or ends the stream."""


@dataclass(eq=False, slots=True)
class Subscription:
    """What one client has yet to read of one thread. Made by `Relay.subscribe`."""

    thread_id: UUID
    run_id: UUID | None
    """Batches of other runs are left out; None takes the whole thread."""
    relay: Listening
    channel: str
    """In Redis: of the thread's events, or of its numbered ones."""
    wants_events: bool = True
    """False for one who waits for the end alone."""
    backlog: deque[Batch] | None = None
    """None while nothing waits: of thousands of streams most have nothing to say."""
    backlog_bytes: int = 0
    is_kept: bool = False
    """It goes on after the block that made it; `end` ends it."""
    is_dropped: bool = False
    """The client was too slow."""
    is_gone: bool = False
    """The stream must end at its next step: the client has left, or the process stops."""
    is_closing: bool = False
    """It is the process that stops: the client did nothing."""
    is_last: bool = False
    """What its stream yields next is the end of the answer."""
    is_watched: bool = False
    """Set once the run's row is committed: only then may the watchdog miss it."""
    next_seq: int | None = None
    """The next numbered event that its reader waits for; None while it does not."""
    open_run_id: UUID | None = None
    """Of a thread's stream: the run whose end has yet to come."""
    suspected: int = 0
    """How often in a row the watchdog found the run ended, or events that the reader has not."""
    show: Show | None = None
    """Set by a stream that may be written to while it waits; it sees each batch once, as `take`."""
    outlet: Outlet | None = None
    """Set with the first byte of the answer; None where no server of ours serves the stream."""
    beat_at: float = 0.0
    """When the next heartbeat is due, by the monotonic clock, if nothing else is sent before."""
    heartbeat_seconds: float = 0.0
    look: int = -1
    """When `Heartbeats` looks at it next."""
    _is_standing_by: bool = False
    _rest: bytes = b""
    """Of what was offered to the outlet: to be sent before anything else."""
    _fault: Exception | None = None
    """What `show` failed with: for the stream's own greenlet to end with."""
    _is_nudged: bool = False
    _waiter: "Waiter[None] | None" = None
    """Of a greenlet in `take`: less than an Event, of which an idle stream has no other use."""

    def __enter__(self) -> Self:
        """Listen during the block, or for longer if somebody keeps it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End, unless somebody keeps it."""
        if not self.is_kept:
            self.end()

    def end(self) -> None:
        """Listen no more."""
        self.show = self.outlet = None
        self.relay.part(self)

    @property
    def patience_seconds(self) -> float:
        """How long the client may take to read a piece."""
        return self.relay.patience_seconds

    @property
    def awaited_run_id(self) -> UUID | None:
        """The run whose end the watchdog looks out for."""
        return self.run_id if self.is_watched else self.open_run_id

    @property
    def is_cut(self) -> bool:
        """The client gets less than there is, by our doing: it should come again."""
        return self.is_dropped or self.is_closing

    def push(self, batch: Batch, chosen: Chosen) -> None:
        """Write a batch to the client, or leave it for the client's greenlet.

        Args:
            chosen: what clients before this one got of the same batch.
        """
        is_other = self.run_id is not None and batch.run_id != self.run_id
        if is_other or self.is_dropped or not (self.wants_events or batch.kind is Kind.END):
            return
        if self._writes(batch, chosen):
            return
        if self.backlog and self.backlog_bytes + len(batch.frames) > LARGEST_BACKLOG_BYTES:
            self.drop()
            return
        if self.backlog is None:
            self.backlog = deque()
        self.backlog.append(batch)
        self._count(len(batch.frames))
        self._wake()

    def beat(self) -> None:
        """Send a heartbeat, unless there is something else to send."""
        if self.outlet is not None and self._is_free:
            self._write(self.outlet, HEARTBEAT)

    @property
    def _is_free(self) -> bool:
        """Nothing is on its way to the client, and its greenlet stands by."""
        return self._is_standing_by and not (self.backlog or self._rest)

    def _writes(self, batch: Batch, chosen: Chosen) -> bool:
        """Whether a batch needs no turn of the client's greenlet; then it is written."""
        if self.show is None or self.outlet is None or not self._is_free:
            return False
        if len(batch.frames) > PIECE_BYTES:
            return False
        try:
            frames = self.show(batch, chosen)
        except (ValueError, TypeError, struct.error) as error:
            # Not our batch, or broken: this stream's end, not that of whoever writes for all.
            self.show, self._fault = None, error
            self._wake()
            return True
        if frames:
            self._write(self.outlet, frames)
        return frames is not None

    def _write(self, outlet: Outlet, frames: bytes) -> None:
        self.beat_at = time.monotonic() + self.heartbeat_seconds
        self._rest = outlet.offer(frames)
        if self._rest:
            self._wake()

    def drop(self) -> None:
        """Give the client up: it reads too slowly."""
        self.is_dropped = True
        self.forget()
        self._wake()

    def forget(self) -> None:
        """Let go of what is unread."""
        self.backlog = None
        self._count(-self.backlog_bytes)

    def nudge(self) -> None:
        """End the wait of `take`: there is something else to do."""
        self._is_nudged = True
        self._wake()

    def leave(self) -> None:
        """End the stream at its next step."""
        self.is_gone = True
        self._wake()

    def close(self) -> None:
        """As `leave`, because the process stops."""
        self.is_closing = True
        self.leave()

    def take(self, timeout_seconds: float) -> list[Batch]:
        """Wait for batches and take the next; none when time ran out or the stream must end.

        To a stream that can be written to meanwhile, time brings heartbeats.

        Raises:
            OSError: of the outlet.
            ValueError, TypeError, struct.error: a batch that cannot be read.
        """
        if self.show is None or self.outlet is None:
            if self._is_to_wait and not self._is_nudged:
                with gevent.Timeout(timeout_seconds, exception=False):  # type: ignore[arg-type]
                    self._wait()
            self._is_nudged = False
        else:
            self.heartbeat_seconds = timeout_seconds
            self._stand_by(self.outlet)
        return self._take()

    @property
    def _is_to_wait(self) -> bool:
        return not (self.backlog or self.is_gone or self.is_dropped)

    def _stand_by(self, outlet: Outlet) -> None:
        """Let others write, and finish what they could not, until there is something to take."""
        while self._is_to_wait and self._fault is None:
            self.beat_at = time.monotonic() + self.heartbeat_seconds
            self._is_standing_by = True
            try:
                self._wait()
            finally:
                self._is_standing_by = False
            if self._rest:
                outlet.finish(self._rest)
                self._rest = b""
        if self._fault is not None:
            raise self._fault

    def _wait(self) -> None:
        """Let other greenlets run until one calls `_wake`."""
        waiter: Waiter[None] = Waiter()
        self._waiter = waiter
        try:
            waiter.get()
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            # Only the hub may switch to it. To one that has gone on meanwhile nothing happens.
            gevent.get_hub().loop.run_callback(waiter.switch, None)

    def _take(self) -> list[Batch]:
        taken: list[Batch] = []
        taken_bytes = 0
        while self.backlog and (
            not taken or taken_bytes + len(self.backlog[0].frames) <= LARGEST_TAKE_BYTES
        ):
            taken.append(self.backlog.popleft())
            taken_bytes += len(taken[-1].frames)
        if not self.backlog:
            self.backlog = None
        self._count(-taken_bytes)
        return taken

    def _count(self, change_bytes: int) -> None:
        self.backlog_bytes += change_bytes
        self.relay.tally.backlog_bytes += change_bytes
