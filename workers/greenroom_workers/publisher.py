"""A run's events on their way out: framed once, sent in batches, kept first if they must last."""

import asyncio
import threading
from collections.abc import Callable

from greenroom.encryption import seal
from greenroom.errors import DatabaseUnavailable, LeaseLost
from greenroom.graphs.group_commit import translated
from greenroom.logs import get_logger
from greenroom.queue.life import Lease
from greenroom.signals.keys import Keys
from greenroom.streaming.frames import Batch, EventId, Kind, make_frame, pack_pieces
from greenroom_workers.io_thread import IoThread
from greenroom_workers.kept import Kept, resolve

log = get_logger(__name__)

LARGEST_BACKLOG_BYTES = 4 * 1024 * 1024
"""Beyond this the graph waits for Redis and Postgres instead of filling the memory."""

AGAIN_SECONDS = 0.5
"""Between two tries to keep events while Postgres is away."""

KEEP = """
INSERT INTO run_event (run_id, first_seq, last_seq, thread_id, frames)
SELECT run_id, %(first_seq)s, %(last_seq)s, thread_id, %(frames)b FROM run
 WHERE run_id = %(run_id)s AND lease_token = %(token)s AND status = 'running' FOR SHARE
-- Once more, because the answer got lost.
ON CONFLICT (run_id, first_seq) DO UPDATE SET frames = excluded.frames
RETURNING run_id
"""
LAST_SEQ = "SELECT coalesce(max(last_seq), -1) AS last_seq FROM run_event WHERE run_id = %(run_id)s"


class RunEvents:
    """The stream of one run. `emit` on the run's loop; the sending happens on the I/O loop.

    Frames leave as soon as nothing of the run is on its way; what comes meanwhile is the next
    batch. A failing publish never fails a run: a log keeps resumable streams whole.
    """

    def __init__(
        self,
        io: IoThread,
        keys: Keys,
        lease: Lease,
        started_ms: int,
        *,
        is_resumable: bool,
        on_lost: Callable[[], None],
    ) -> None:
        self.io = io
        self.lease = lease
        self.started_ms = started_ms
        self.is_resumable = is_resumable
        self.on_lost = on_lost
        self.channel = keys.events(lease.thread_id)
        self.next_seq = 0
        self._lock = threading.Lock()
        self._frames: list[bytes] = []
        self._bytes = 0
        self._is_sending = False
        self._idle: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._kept = Kept()

    async def resume(self) -> None:
        """Go on counting where an earlier attempt stopped, so that ids keep growing."""
        if not self.is_resumable or self.lease.token == 1:
            return

        async def read() -> int:
            with translated():
                async with self.io.pool.connection() as connection:
                    cursor = await connection.execute(LAST_SEQ, {"run_id": self.lease.run_id})
                    row = await cursor.fetchone()
            return int(row["last_seq"]) + 1 if row else 0

        self.next_seq = await asyncio.wrap_future(self.io.submit(read()))
        self._kept.tell(self.next_seq)

    def emit(self, event: str, data: bytes) -> None:
        """Frame an event and send it with the next batch."""
        event_id = EventId(self.started_ms, self.next_seq) if self.is_resumable else None
        frame = make_frame(event, data, event_id)
        with self._lock:
            self.next_seq += 1
            self._frames.append(frame)
            self._bytes += len(frame)
            if self._is_sending:
                return
            self._is_sending = True
        self.io.loop.call_soon_threadsafe(self._start_sending)

    @property
    def is_full(self) -> bool:
        """So much waits that the graph should too."""
        return self._bytes > LARGEST_BACKLOG_BYTES

    async def flushed(self) -> None:
        """Wait until everything emitted so far is on its way."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._is_sending:
                return
            done = loop.create_future()
            self._idle.append((loop, done))
        await done

    async def kept(self) -> None:
        """Wait until everything emitted so far is in the log, or will never be; if there is one."""
        if self.is_resumable:
            await self._kept.wait(self.next_seq)

    def end_frame(self, data: bytes) -> bytes:
        """The frame of the error that ends the run; to be stored with the end, then sent."""
        event_id = EventId(self.started_ms, self.next_seq) if self.is_resumable else None
        return make_frame("error", data, event_id)

    async def announce_end(self, frames: bytes = b"") -> None:
        """Tell the relays that the run's row is terminal; not before it is."""
        batch = Batch(
            Kind.END,
            self.lease.run_id,
            self.lease.token,
            self.started_ms,
            self.next_seq,
            1 if frames else 0,
            frames,
        )
        await asyncio.wrap_future(self.io.submit(self._publish(batch)))

    def _start_sending(self) -> None:
        self.io.loop.create_task(self._send())

    async def _send(self) -> None:
        while (batch := self._take()) is not None:
            try:
                if self.is_resumable:
                    await self._keep_at_last(batch)
            except LeaseLost:
                self.on_lost()
                continue
            except Exception:
                log.exception(
                    "events not kept",
                    run_id=self.lease.run_id,
                    thread_id=self.lease.thread_id,
                )
            finally:
                self._kept.tell(batch.next_seq)
            await self._publish(batch)

    def _take(self) -> Batch | None:
        with self._lock:
            if not self._frames:
                self._is_sending = False
                idle, self._idle = self._idle, []
            else:
                idle = []
            frames, self._frames = self._frames, []
            self._bytes = 0
            first_seq = self.next_seq - len(frames)
        for loop, done in idle:
            loop.call_soon_threadsafe(resolve, done)
        if not frames:
            return None
        return Batch(
            Kind.EVENTS,
            self.lease.run_id,
            self.lease.token,
            self.started_ms,
            first_seq,
            len(frames),
            b"".join(frames),
        )

    async def _keep_at_last(self, batch: Batch) -> None:
        """Keep a batch, however long Postgres is away: what nobody can replay, nobody shall see.

        Otherwise the next attempt would give other events the same numbers.

        Raises:
            LeaseLost: the run is another's by now, or back in the queue.
        """
        while True:
            try:
                await self._keep(batch)
            except DatabaseUnavailable as error:
                log.debug("events wait", run_id=self.lease.run_id, error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    async def _keep(self, batch: Batch) -> None:
        parameters = {
            "run_id": self.lease.run_id,
            "token": self.lease.token,
            "first_seq": batch.first_seq,
            "last_seq": batch.next_seq - 1,
            "frames": seal(batch.frames),
        }
        with translated():
            async with self.io.pool.connection() as connection:
                cursor = await connection.execute(KEEP, parameters)
                if await cursor.fetchone() is None:
                    raise LeaseLost(f"run {self.lease.run_id} belongs to another worker")

    async def _publish(self, batch: Batch) -> None:
        await self.io.publish(self.channel, pack_pieces(batch))
