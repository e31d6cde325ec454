"""What a run tells on its way out: kept first if it must last, then sent, batch after batch."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from greenroom.encryption import seal
from greenroom.errors import DatabaseUnavailable, LeaseLost
from greenroom.graphs.group_commit import translated
from greenroom.logs import get_logger
from greenroom.queue.life import Lease
from greenroom.streaming.frames import Batch, Kind, pack_pieces
from greenroom_workers.io_thread import IoThread
from greenroom_workers.kept import Kept, resolve

log = get_logger(__name__)

LARGEST_BACKLOG_BYTES = 4 * 1024 * 1024
"""Beyond this the graph waits for Redis and Postgres instead of filling the memory."""
AGAIN_SECONDS = 0.5
"""Between two tries to keep events while Postgres is away."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """Events that are still to be made a batch."""

    events: Sequence[T] = ()
    first_seq: int = 0
    count: int = 0


class Outgoing(ABC, Generic[T]):
    """One run's events of one kind. They come on the run's loop; the sending is the I/O loop's.

    A batch leaves as soon as nothing of the run is on its way; what comes meanwhile is the next.
    While nobody listens it waits a moment for more, unless a log must have it. A failing publish
    never fails a run.
    """

    KEEP: ClassVar[str]
    """Adds `payload` to the log while the lease holds; no row: it does not."""
    SENDS_UNKEPT: ClassVar[bool]
    """What could not be kept for an unknown reason is sent all the same."""

    def __init__(
        self,
        io: IoThread,
        lease: Lease,
        started_ms: int,
        channel: str,
        on_lost: Callable[[], None],
        *,
        is_logged: bool,
    ) -> None:
        self.io = io
        self.lease = lease
        self.started_ms = started_ms
        self.channel = channel
        self.on_lost = on_lost
        self.is_logged = is_logged
        self.send_here: Callable[[Sequence[bytes]], int | None] | None = None
        """Sends the first event from the run's own thread, and answers as `IoThread.publish`; None
        leaves it to the I/O loop."""
        self.next_seq = 0
        self._lock = threading.Lock()
        self._waiting: list[T] = []
        self._count = 0
        self._bytes = 0
        self._last: Batch | None = None
        self._is_sending = False
        """Something is on its way, or held."""
        self._is_held = False
        self._is_heard = True
        """Somebody listened when Redis last told, or it has not told yet."""
        self._idle: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._kept = Kept()

    @abstractmethod
    def _pack(self, events: Sequence[T]) -> bytes:
        """The payload of a batch."""

    @property
    def is_full(self) -> bool:
        """So much waits that the graph should too."""
        return self._bytes > LARGEST_BACKLOG_BYTES

    async def flushed(self) -> None:
        """Wait until everything emitted so far is kept, if it shall be, and on its way."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._is_sending:
                return
            done = loop.create_future()
            self._idle.append((loop, done))
        self._let_go()
        await done

    async def flushed_to_log(self) -> None:
        """As `flushed`, where there is a log: what is only sent goes before the end by itself."""
        if self.is_logged:
            await self.flushed()

    async def kept(self) -> None:
        """Wait until everything emitted so far is in the log, or will never be; if there is one."""
        if self.is_logged:
            await self._kept.wait(self.next_seq)

    def _goes_on_at(self, next_seq: int) -> None:
        """Count from here on; everything before is kept."""
        self.next_seq = next_seq
        self._kept.tell(next_seq)

    def _add(self, events: Sequence[T], count: int, size_bytes: int) -> bool:
        """Leave numbered events for the next batch, under the lock; True: `_begin` must follow."""
        self._waiting += events
        self._count += count
        self._bytes += size_bytes
        was_sending, self._is_sending = self._is_sending, True
        return not was_sending

    def _send_last(self, batch: Batch) -> None:
        """Send a batch after all that was emitted; it is kept already. Nobody waits for it."""
        with self._lock:
            if self._is_sending and not self._is_held:
                self._last = batch
                return
            waiting = self._take_waiting()
            self._is_held = self._is_sending = False
        messages = [*messages_of(self._joined(waiting)), *messages_of(batch)]
        self.io.publish_last(self.channel, messages)

    def _begin(self) -> None:
        if not self._hold():
            self.io.spawn(self._send)

    def _hold(self) -> bool:
        """Let what waits wait for more, if nobody listens."""
        with self._lock:
            if self.is_logged or self._is_heard or not self._waiting or self._last is not None:
                return False
            self._is_held = True
        self.io.checkpoints.later.call(self._let_go)
        return True

    def _let_go(self) -> None:
        with self._lock:
            was_held, self._is_held = self._is_held, False
        if was_held:
            self.io.spawn(self._send)

    def _note(self, listeners: int | None) -> None:
        """What Redis said of a message: how many got it."""
        if listeners is not None:
            self._is_heard = listeners > 0

    async def _send(self) -> None:
        while (taken := self._take()) is not None:
            batch, last = taken
            if batch is not None and not await self._is_sendable(batch):
                batch = None
            if messages := [*messages_of(batch), *messages_of(last)]:
                self._note(await self.io.publish(self.channel, messages))
            if self._hold():
                return

    async def _is_sendable(self, batch: Batch) -> bool:
        """Keep a batch, where there is a log; whether it may be seen."""
        if not self.is_logged:
            return True
        try:
            await self._keep_at_last(batch)
        except LeaseLost:
            self.on_lost()
            return False
        except Exception:
            log.exception(
                "events not kept",
                run_id=self.lease.run_id,
                thread_id=self.lease.thread_id,
                channel=self.channel,
            )
            return self.SENDS_UNKEPT
        finally:
            self._kept.tell(batch.next_seq)
        return True

    def _take(self) -> tuple[Batch | None, Batch | None] | None:
        """What is to be sent next, and what follows it as the last; None when there is nothing."""
        with self._lock:
            waiting, last, self._last = self._take_waiting(), self._last, None
            is_done = not waiting.events and last is None
            if is_done:
                self._is_sending = False
            idle, self._idle = (self._idle, []) if is_done else ([], self._idle)
        for loop, done in idle:
            loop.call_soon_threadsafe(resolve, done)
        return None if is_done else (self._joined(waiting), last)

    def _take_waiting(self) -> Waiting[T]:
        """Take all that waits, under the lock."""
        waiting = Waiting(self._waiting, self.next_seq - self._count, self._count)
        self._waiting, self._count, self._bytes = [], 0, 0
        return waiting

    def _joined(self, waiting: Waiting[T]) -> Batch | None:
        if not waiting.events:
            return None
        payload = self._pack(waiting.events)
        return self._batch(Kind.EVENTS, waiting.first_seq, waiting.count, payload)

    def _batch(self, kind: Kind, first_seq: int, count: int, payload: bytes) -> Batch:
        lease = self.lease
        return Batch(kind, lease.run_id, lease.token, self.started_ms, first_seq, count, payload)

    async def _keep_at_last(self, batch: Batch) -> None:
        """Keep a batch, however long Postgres is away: what nobody can replay, nobody shall see.

        Otherwise the next attempt would give other events the same numbers.

        Raises:
            LeaseLost: the run is another's by now, or back in the queue, or has ended.
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
            "thread_id": self.lease.thread_id,
            "token": self.lease.token,
            "first_seq": batch.first_seq,
            "last_seq": batch.next_seq - 1,
            "payload": seal(batch.frames),
        }
        with translated():
            async with self.io.pool.connection() as connection:
                cursor = await connection.execute(self.KEEP, parameters)
                if await cursor.fetchone() is None:
                    raise LeaseLost(f"run {self.lease.run_id} belongs to another worker")


def messages_of(batch: Batch | None) -> Iterable[bytes]:
    """A batch in as many messages as it takes."""
    return pack_pieces(batch) if batch is not None else ()
