"""A run's numbered events on their way out: kept in Postgres first, then sent (generation 2)."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable

from greenroom import wire
from greenroom.encryption import seal
from greenroom.errors import DatabaseUnavailable, LeaseLost
from greenroom.graphs.group_commit import translated
from greenroom.logs import get_logger
from greenroom.queue.life import EndEvents, Lease
from greenroom.signals.keys import Keys
from greenroom.streaming.frames import Batch, Kind, pack_pieces
from greenroom.streaming.protocol_encoder import Draft
from greenroom.streaming.spans import Event, make_event_frame, make_key, pack_spans
from greenroom_workers.io_thread import IoThread
from greenroom_workers.kept import Kept, resolve
from greenroom_workers.publisher import AGAIN_SECONDS, LARGEST_BACKLOG_BYTES

log = get_logger(__name__)

KEEP = """
INSERT INTO thread_event (thread_id, first_seq, last_seq, run_id, spans)
SELECT thread_id, %(first_seq)s, %(last_seq)s, run_id, %(spans)b FROM run
 WHERE run_id = %(run_id)s AND lease_token = %(token)s AND status = 'running' FOR SHARE
-- Once more, because the answer got lost.
ON CONFLICT (thread_id, first_seq) DO UPDATE SET spans = excluded.spans
RETURNING run_id
"""
LAST_EVENTS = """
SELECT last_seq FROM thread_event WHERE thread_id = %(thread_id)s AND run_id = %(run_id)s
 ORDER BY first_seq DESC LIMIT 1
"""


class NumberedEvents:
    """The numbered events of one run. Emitted on the run's loop, sent on the I/O loop.

    A batch is kept before anybody sees it, so that the attempt after a crash goes on counting
    where this one stopped, and no number stands for two events.
    """

    def __init__(
        self,
        io: IoThread,
        keys: Keys,
        lease: Lease,
        started_ms: int,
        last_seq: int,
        on_lost: Callable[[], None],
    ) -> None:
        """Open nothing.

        Args:
            last_seq: of the runs before on this thread; 0 without any.
        """
        self.io = io
        self.lease = lease
        self.started_ms = started_ms
        self.next_seq = last_seq + 1
        self.on_lost = on_lost
        self.channel = keys.numbered_events(lease.thread_id)
        self.has_begun = False
        """Events of this run have been kept, perhaps by an earlier attempt."""
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._count = 0
        self._bytes = 0
        self._is_sending = False
        self._idle: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._kept = Kept()
        self._kept.tell(self.next_seq)

    async def resume(self) -> None:
        """Go on counting where an earlier attempt stopped."""
        if self.lease.token == 1:
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
            self.has_begun, self.next_seq = True, last_seq + 1
            self._kept.tell(self.next_seq)

    def emit(self, *drafts: Draft) -> None:
        """Number and frame events, and send them with the next batch, which holds them all."""
        with self._lock:
            events = self._number(drafts)
            self._events += events
            self._count += sum(event.is_numbered for event in events)
            self._bytes += sum(len(event.frame) for event in events)
            if self._is_sending:
                return
            self._is_sending = True
        self.io.loop.call_soon_threadsafe(self._start_sending)

    @property
    def is_full(self) -> bool:
        """So much waits that the graph should too."""
        return self._bytes > LARGEST_BACKLOG_BYTES

    async def flushed(self) -> None:
        """Wait until everything emitted so far is kept and on its way."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._is_sending:
                return
            done = loop.create_future()
            self._idle.append((loop, done))
        await done

    async def kept(self) -> None:
        """Wait until everything emitted so far is in the log, or will never be."""
        await self._kept.wait(self.next_seq)

    def end(self, drafts: Iterable[Draft]) -> EndEvents:
        """The last events, to be stored with the end itself and sent afterwards.

        They take no numbers yet: an end may have to be written again in another form.
        """
        first_seq = self.next_seq
        events = self._number(drafts)
        last_seq, self.next_seq = self.next_seq - 1, first_seq
        return EndEvents(first_seq, last_seq, pack_spans(events))

    async def announce_end(self, end: EndEvents) -> None:
        """Send the last events; not before the run's row is terminal."""
        count = end.last_seq - end.first_seq + 1
        await asyncio.wrap_future(
            self.io.submit(self._publish(self._batch(end.first_seq, count, end.spans)))
        )

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

    def _start_sending(self) -> None:
        self.io.loop.create_task(self._send())

    async def _send(self) -> None:
        while (batch := self._take()) is not None:
            try:
                await self._keep_at_last(batch)
            except LeaseLost:
                self.on_lost()
                continue
            except Exception:
                # A number that was given and not kept would be a hole for ever.
                log.exception(
                    "numbered events not kept",
                    run_id=self.lease.run_id,
                    thread_id=self.lease.thread_id,
                )
                continue
            finally:
                self._kept.tell(batch.next_seq)
            await self._publish(batch)

    def _take(self) -> Batch | None:
        with self._lock:
            if not self._events:
                self._is_sending = False
                idle, self._idle = self._idle, []
            else:
                idle = []
            events, self._events = self._events, []
            count, self._count, self._bytes = self._count, 0, 0
            first_seq = self.next_seq - count
        for loop, done in idle:
            loop.call_soon_threadsafe(resolve, done)
        return self._batch(first_seq, count, pack_spans(events)) if events else None

    def _batch(self, first_seq: int, count: int, spans: bytes) -> Batch:
        lease = self.lease
        return Batch(
            Kind.EVENTS, lease.run_id, lease.token, self.started_ms, first_seq, count, spans
        )

    async def _keep_at_last(self, batch: Batch) -> None:
        """Keep a batch, however long Postgres is away.

        Raises:
            LeaseLost: the run is another's by now, or has ended.
        """
        while True:
            try:
                await self._keep(batch)
            except DatabaseUnavailable as error:
                log.debug("numbered events wait", run_id=self.lease.run_id, error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    async def _keep(self, batch: Batch) -> None:
        parameters = {
            "run_id": self.lease.run_id,
            "token": self.lease.token,
            "first_seq": batch.first_seq,
            "last_seq": batch.next_seq - 1,
            "spans": seal(batch.frames),
        }
        with translated():
            async with self.io.pool.connection() as connection:
                cursor = await connection.execute(KEEP, parameters)
                if await cursor.fetchone() is None:
                    raise LeaseLost(f"run {self.lease.run_id} belongs to another worker")

    async def _publish(self, batch: Batch) -> None:
        await self.io.publish(self.channel, pack_pieces(batch))
