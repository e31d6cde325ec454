"""A run's numbered events on their way out (generation 2)."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from greenroom import wire
from greenroom.graphs.group_commit import translated
from greenroom.queue.life import EndEvents, Lease
from greenroom.signals.keys import Keys
from greenroom.streaming.frames import Kind
from greenroom.streaming.protocol_encoder import Draft
from greenroom.streaming.spans import Event, make_event_frame, make_key, pack_spans
from greenroom_workers.io_thread import IoThread
from greenroom_workers.outgoing import Outgoing

LAST_EVENTS = """
SELECT last_seq FROM thread_event WHERE thread_id = %(thread_id)s AND run_id = %(run_id)s
 ORDER BY first_seq DESC LIMIT 1
"""


class NumberedEvents(Outgoing[Event]):
    """The numbered events of one run.

    A batch is kept before anybody sees it, so that the attempt after a crash goes on counting
    where this one stopped, and no number stands for two events.
    """

    # The foreign key asks for the thread's row, too: before the run's, as every request does.
    KEEP = """
WITH held AS MATERIALIZED (
    SELECT thread_id FROM thread WHERE thread_id = %(thread_id)s FOR KEY SHARE
)
INSERT INTO thread_event (thread_id, first_seq, last_seq, run_id, spans)
SELECT thread_id, %(first_seq)s, %(last_seq)s, run_id, %(payload)b
  FROM held JOIN run USING (thread_id)
 WHERE run_id = %(run_id)s AND lease_token = %(token)s AND status = 'running' FOR SHARE OF run
-- Once more, because the answer got lost.
ON CONFLICT (thread_id, first_seq) DO UPDATE SET spans = excluded.spans
RETURNING run_id
"""
    # A number that was given and not kept would be a hole for ever.
    SENDS_UNKEPT = False

    def __init__(
        self,
        io: IoThread,
        keys: Keys,
        lease: Lease,
        started_ms: int,
        last_seq: int,
        on_lost: Callable[[], None],
        *,
        is_first: bool,
    ) -> None:
        """Open nothing.

        Args:
            last_seq: of the runs before on this thread; 0 without any.
            is_first: no earlier attempt can have kept anything.
        """
        channel = keys.numbered_events(lease.thread_id)
        super().__init__(io, lease, started_ms, channel, on_lost, is_logged=True)
        self.is_first = is_first
        self.has_begun = False
        """Events of this run have been kept, perhaps by an earlier attempt."""
        self._goes_on_at(last_seq + 1)

    async def resume(self) -> None:
        """Go on counting where an earlier attempt stopped."""
        if self.is_first:
            return

        async def read() -> int | None:
            with translated():
                async with self.io.pool.connection() as connection:
                    parameters = {"thread_id": self.lease.thread_id, "run_id": self.lease.run_id}
                    cursor = await connection.execute(LAST_EVENTS, parameters)
                    row = await cursor.fetchone()
            return int(row["last_seq"]) if row else None

        last_seq = await asyncio.wrap_future(self.io.submit(read()))
        if last_seq is not None:
            self.has_begun = True
            self._goes_on_at(last_seq + 1)

    def emit(self, *drafts: Draft) -> None:
        """Number and frame events, and send them with the next batch, which holds them all."""
        with self._lock:
            events = self._number(drafts)
            count = sum(event.is_numbered for event in events)
            is_first = self._add(events, count, sum(len(event.frame) for event in events))
        if is_first:
            self._begin()

    def end(self, drafts: Iterable[Draft]) -> EndEvents:
        """The last events, to be stored with the end itself and sent afterwards.

        They take no numbers yet: an end may have to be written again in another form.
        """
        first_seq = self.next_seq
        events = self._number(drafts)
        last_seq, self.next_seq = self.next_seq - 1, first_seq
        return EndEvents(first_seq, last_seq, pack_spans(events))

    def announce_end(self, end: EndEvents) -> None:
        """Send the last events; not before the run's row is terminal."""
        count = end.last_seq - end.first_seq + 1
        self._send_last(self._batch(Kind.EVENTS, end.first_seq, count, end.spans))

    def _number(self, drafts: Iterable[Draft]) -> list[Event]:
        milliseconds = int(time.time() * 1000)
        events = []
        for draft in drafts:
            seq = self.next_seq
            event_id = draft.event_id or f"{self.started_ms}-{seq}"
            data = draft.data
            if not draft.is_numbered:
                event_id += ".c"
            if draft.node is not None:
                data += b',"node":' + wire.dumps(draft.node)
            frame = make_event_frame(
                draft.method,
                data,
                namespace=wire.dumps(draft.namespace),
                milliseconds=milliseconds,
                event_id=event_id,
                seq=seq if draft.is_numbered else None,
            )
            key = make_key(draft.method, draft.namespace, draft.name)
            events.append(Event(key, frame, draft.is_numbered))
            self.next_seq += draft.is_numbered
        return events

    def _pack(self, events: Sequence[Event]) -> bytes:
        return pack_spans(events)
