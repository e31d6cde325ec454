"""One client's stream of one run, and the wait for its end. No database session is held here."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from uuid import UUID

from greenroom.database.engine import Database
from greenroom.streaming.frames import (
    HEARTBEAT,
    TOO_SLOW,
    Batch,
    Chosen,
    EventId,
    Kind,
    make_end,
    make_frame,
    parse_event_id,
    select,
)
from greenroom.streaming.replay import replay_run
from greenroom.streaming.subscription import Subscription

FROM_THE_START = ("-1", "0", "-")
HELD_BYTES = 1024 * 1024
"""What a thread's stream holds for an end that does not come."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client wants to see of a run."""

    run_id: UUID
    modes: frozenset[str] | None = None
    """Base names of events; None is everything."""
    is_resumable: bool = False
    """Events are kept in Postgres: gaps can be filled."""
    from_seq: int | None = None
    """The first frame that the client has not seen; None starts with what comes now."""


def read_modes(stream_modes: Iterable[str]) -> frozenset[str] | None:
    """The names that events of these modes carry; None, that is no filter, when none is named.

    A failure is never filtered out.
    """
    names = {"messages" if mode == "messages-tuple" else mode for mode in stream_modes if mode}
    return frozenset(names | {"error"}) if names else None


def read_position(last_event_id: str | None) -> int | None:
    """The first unseen frame after a Last-Event-ID; None without one (live only).

    Raises:
        ValueError: malformed; such a client gets an empty stream (streaming-v1.md, section 6).
    """
    if last_event_id is None:
        return None
    if last_event_id in FROM_THE_START:
        return 0
    event_id = parse_event_id(last_event_id)
    if event_id is None:
        raise ValueError(last_event_id)
    return event_id.number + 1


class RunStream:
    """The frames of a run in order, each once, whichever way they come."""

    __slots__ = ("database", "has_begun", "has_ended", "next_seq", "token", "wanted")

    def __init__(self, database: Database, wanted: Wanted) -> None:
        self.database = database
        self.wanted = wanted
        self.next_seq = wanted.from_seq or 0
        self.token = 0
        self.has_begun = wanted.from_seq is not None
        self.has_ended = False

    def replay(self, started_ms: int) -> Iterator[bytes]:
        """What is kept from the client's position on."""
        for batch in replay_run(self.database, self.wanted.run_id, started_ms, self.next_seq):
            yield self._take(batch, {})

    def accept(self, batch: Batch) -> Iterator[bytes]:
        """Frames that a live batch brings, after those that got lost before it."""
        shown = self.show(batch, {})
        if shown is not None:
            yield shown
            return
        is_synthetic = batch.kind is Kind.END and not batch.started_ms
        if self.wanted.is_resumable and (is_synthetic or self._misses(batch)):
            yield from self.replay(batch.started_ms)
        yield batch.frames if is_synthetic else self._take_new(batch, {})
        self.has_ended = batch.kind is Kind.END

    def show(self, batch: Batch, chosen: Chosen) -> bytes | None:
        """The same, of a batch in the middle of the run that nothing got lost before; else None."""
        if batch.kind is Kind.STATE or batch.lease_token < self.token:
            return b""
        if batch.kind is Kind.END:
            return None
        if batch.lease_token > self.token:
            self._start_attempt(batch)
        if self.wanted.is_resumable and self._misses(batch):
            return None
        return self._take_new(batch, chosen)

    def _misses(self, batch: Batch) -> bool:
        return self.has_begun and batch.first_seq > self.next_seq

    def _start_attempt(self, batch: Batch) -> None:
        """A new owner of a run without a log counts its frames anew."""
        self.token = batch.lease_token
        if not self.wanted.is_resumable:
            self.next_seq = batch.first_seq

    def _take_new(self, batch: Batch, chosen: Chosen) -> bytes:
        has_new = batch.next_seq > self.next_seq or not self.has_begun
        return self._take(batch, chosen) if has_new else b""

    def _take(self, batch: Batch, chosen: Chosen) -> bytes:
        modes = self.wanted.modes
        if self.next_seq > batch.first_seq:
            frames = select(batch, self.next_seq, modes, with_ids=False)
        elif (found := chosen.get(modes)) is not None:
            frames = found
        else:
            frames = chosen[modes] = select(batch, batch.first_seq, modes, with_ids=False)
        self.next_seq = max(self.next_seq, batch.next_seq)
        self.has_begun = True
        return frames


def stream_run(
    subscription: Subscription,
    stream: RunStream,
    heartbeat_seconds: float,
    started_ms: int | None = None,
) -> Iterator[bytes]:
    """Yield a run's events until its end, with heartbeats between them.

    Args:
        started_ms: given to begin with a replay of a run that has started already.
    """
    if started_ms is not None:
        yield from filter(None, stream.replay(started_ms))
    subscription.show = stream.show
    while not stream.has_ended:
        batches = subscription.take(heartbeat_seconds)
        if subscription.is_dropped:
            yield TOO_SLOW
            return
        chunk = b"".join(frames for batch in batches for frames in stream.accept(batch))
        subscription.is_last = stream.has_ended
        if chunk:
            yield chunk
        elif subscription.is_gone:
            return
        elif not batches:
            yield HEARTBEAT


def wait_for_end(
    subscription: Subscription, heartbeat_seconds: float, answer: Callable[[bytes], bytes]
) -> Iterator[bytes]:
    """Yield a line break now and then until the run ends, then the answer.

    Args:
        answer: gets what came with the end, which may be nothing.
    """
    subscription.wants_events = False
    next_beat = time.monotonic() + heartbeat_seconds
    while not subscription.is_gone:
        batches = subscription.take(max(0.0, next_beat - time.monotonic()))
        for batch in batches:
            if batch.kind is Kind.END:
                subscription.is_last = True
                yield answer(batch.answer)
                return
        if time.monotonic() >= next_beat:
            next_beat += heartbeat_seconds
            yield b"\n"


class ThreadStream:
    """The events of all runs of a thread, each once, under ids that grow.

    Two workers may publish the end of one run and the beginning of the next in either order:
    what comes too early is held until the end has come.
    """

    def __init__(self, modes: frozenset[str], position: EventId | None = None) -> None:
        self.modes = modes
        self.position = position or EventId(0, 0)
        """The first event that the client has not seen."""
        self.open_run_id: UUID | None = None
        """The run whose beginning has been seen and whose end has not."""
        self.run_id: UUID | None = None
        self.token = 0
        self._held: list[Batch] = []

    def accept(self, batch: Batch) -> bytes:
        """The frames that a batch brings: those that this client wants and has not seen."""
        if batch.kind is Kind.STATE:
            return batch.frames if "state_update" in self.modes else b""
        if self.open_run_id is not None and self.open_run_id != batch.run_id:
            return self._hold(batch, self.open_run_id)
        frames = self._accept(batch)
        if self.open_run_id is None and self._held:
            held, self._held = self._held, []
            frames += b"".join(self.accept(one) for one in held)
        return frames

    def _hold(self, batch: Batch, open_run_id: UUID) -> bytes:
        self._held.append(batch)
        if sum(len(one.frames) for one in self._held) <= HELD_BYTES:
            return b""
        return self.accept(make_end(open_run_id))

    def _accept(self, batch: Batch) -> bytes:
        if batch.run_id == self.run_id and batch.lease_token < self.token:
            return b""
        has_ended = batch.kind is Kind.END
        if has_ended and not batch.started_ms and batch.run_id == self.open_run_id:
            milliseconds, number = self.position.milliseconds, self.position.number
            batch = replace(batch, started_ms=milliseconds, first_seq=number)
        after = EventId(batch.started_ms, batch.next_seq + has_ended)
        if after <= self.position:
            return b""
        # A client may have left in the middle of a batch.
        is_resumed = batch.started_ms == self.position.milliseconds
        from_seq = max(batch.first_seq, self.position.number if is_resumed else 0)
        self.run_id, self.token, self.position = batch.run_id, batch.lease_token, after
        self.open_run_id = None if has_ended else batch.run_id
        frames = self._select(batch, from_seq)
        if has_ended and self.modes & {"run_modes", "lifecycle"}:
            data = b'{"status":"run_done","run_id":"%b"}' % str(batch.run_id).encode()
            frames += make_frame("metadata", data, EventId(batch.started_ms, batch.next_seq))
        return frames

    def _select(self, batch: Batch, from_seq: int) -> bytes:
        if "run_modes" in self.modes:
            return select(batch, from_seq, None, with_ids=True)
        if "lifecycle" in self.modes:
            return select(batch, from_seq, frozenset({"metadata"}), with_ids=True)
        return b""


def stream_thread(
    subscription: Subscription,
    stream: ThreadStream,
    heartbeat_seconds: float,
    backlog: Iterable[Batch] = (),
) -> Iterator[bytes]:
    """Yield a thread's events for as long as the client stays, kept ones first."""
    for batch in backlog:
        if chunk := stream.accept(batch):
            yield chunk

    def show(batch: Batch, _chosen: Chosen) -> bytes:
        frames = stream.accept(batch)
        subscription.open_run_id = stream.open_run_id
        return frames

    subscription.show = show
    subscription.open_run_id = stream.open_run_id
    while not subscription.is_gone:
        batches = subscription.take(heartbeat_seconds)
        if subscription.is_dropped:
            yield TOO_SLOW
            return
        if chunk := b"".join(show(batch, {}) for batch in batches):
            yield chunk
        elif not batches:
            yield HEARTBEAT
