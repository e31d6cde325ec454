"""One reader of a thread's numbered events: kept ones first, then live, each once."""

from collections.abc import Callable, Iterator
from uuid import UUID

from greenroom.database.engine import Database
from greenroom.streaming.frames import HEARTBEAT, TOO_SLOW, Batch, Chosen
from greenroom.streaming.spans import select_frames
from greenroom.streaming.subscription import Subscription
from greenroom.streaming.thread_log import replay_events

FIRST_SEQ = 1


class ThreadEvents:
    """The events of a thread in the order of their numbers, whichever way they come."""

    def __init__(
        self, database: Database, subscription: Subscription, wants: Callable[[bytes], bool]
    ) -> None:
        self.database = database
        self.subscription = subscription
        self.wants = wants
        self.next_seq = FIRST_SEQ

    @property
    def thread_id(self) -> UUID:
        """Whose events."""
        return self.subscription.thread_id

    def replay(self) -> Iterator[bytes]:
        """What is kept from the reader's position on."""
        for batch in replay_events(self.database, self.thread_id, self.next_seq):
            yield from self._take(batch)

    def accept(self, batch: Batch) -> Iterator[bytes]:
        """Frames that a live batch brings, after those that got lost before it."""
        if batch.first_seq > self.next_seq:
            # Kept before they are sent: what is not there any more has had its time.
            yield from self.replay()
        if batch.next_seq > self.next_seq:
            yield from self._take(batch)

    def show(self, batch: Batch, _chosen: Chosen) -> bytes | None:
        """The same, where nothing got lost; else None."""
        return None if batch.first_seq > self.next_seq else b"".join(self.accept(batch))

    def _take(self, batch: Batch) -> Iterator[bytes]:
        from_seq, self.next_seq = self.next_seq, max(self.next_seq, batch.next_seq)
        self.subscription.next_seq = self.next_seq
        yield from select_frames(batch, from_seq, self.wants)


def stream_events(
    subscription: Subscription, events: ThreadEvents, heartbeat_seconds: float
) -> Iterator[bytes]:
    """Yield a thread's events for as long as the client stays."""
    yield from events.replay()
    # From here on the watchdog may find it lagging.
    subscription.next_seq = events.next_seq
    subscription.show = events.show
    while not subscription.is_gone:
        batches = subscription.take(heartbeat_seconds)
        if subscription.is_dropped:
            yield TOO_SLOW
            return
        has_sent = False
        for batch in batches:
            if chunk := b"".join(events.accept(batch)):
                has_sent = True
                yield chunk
        if not has_sent and not batches:
            yield HEARTBEAT
