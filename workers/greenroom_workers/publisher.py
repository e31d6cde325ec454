"""A run's events as its stream shows them: framed once, logged if the stream is resumable."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from greenroom.graphs.group_commit import translated
from greenroom.queue.life import Lease
from greenroom.signals.keys import Keys
from greenroom.streaming.frames import EventId, Kind, make_frame, pack_pieces
from greenroom_workers.io_thread import IoThread
from greenroom_workers.outgoing import Outgoing

LAST_SEQ = "SELECT coalesce(max(last_seq), -1) AS last_seq FROM run_event WHERE run_id = %(run_id)s"


class RunEvents(Outgoing[bytes]):
    """The stream of one run; a log keeps resumable ones whole."""

    KEEP = """
INSERT INTO run_event (run_id, first_seq, last_seq, thread_id, frames)
SELECT run_id, %(first_seq)s, %(last_seq)s, thread_id, %(payload)b FROM run
 WHERE run_id = %(run_id)s AND lease_token = %(token)s AND status = 'running' FOR SHARE
-- Once more, because the answer got lost.
ON CONFLICT (run_id, first_seq) DO UPDATE SET frames = excluded.frames
RETURNING run_id
"""
    SENDS_UNKEPT = True

    def __init__(
        self,
        io: IoThread,
        keys: Keys,
        lease: Lease,
        started_ms: int,
        *,
        is_first: bool,
        is_resumable: bool,
        is_heard: bool,
        on_lost: Callable[[], None],
    ) -> None:
        """Open nothing.

        Args:
            is_first: no earlier attempt can have kept anything.
            is_heard: somebody reads from the first event on; else that may wait for others.
        """
        channel = keys.events(lease.thread_id)
        super().__init__(io, lease, started_ms, channel, on_lost, is_logged=is_resumable)
        self.is_first = is_first
        self._is_heard = is_heard

    async def resume(self) -> None:
        """Go on counting where an earlier attempt stopped, so that ids keep growing."""
        if not self.is_logged or self.is_first:
            return

        async def read() -> int:
            with translated():
                async with self.io.pool.connection() as connection:
                    cursor = await connection.execute(LAST_SEQ, {"run_id": self.lease.run_id})
                    row = await cursor.fetchone()
            return int(row["last_seq"]) + 1 if row else 0

        self._goes_on_at(await asyncio.wrap_future(self.io.submit(read())))

    def emit(self, event: str, data: bytes) -> None:
        """Frame an event and send it with the next batch."""
        frame = make_frame(event, data, self._next_id())
        with self._lock:
            self.next_seq += 1
            is_first = self._add((frame,), 1, len(frame))
        if is_first:
            self._begin()

    def emit_first(self, event: str, data: bytes) -> None:
        """As `emit`, from this thread where that is allowed: before the graph takes it."""
        if self.is_logged or not self._is_heard or self.send_here is None:
            self.emit(event, data)
            return
        batch = self._batch(Kind.EVENTS, self.next_seq, 1, make_frame(event, data))
        self.next_seq += 1
        self._note(self.send_here(list(pack_pieces(batch))))

    def end_frame(self, data: bytes) -> bytes:
        """The frame of the error that ends the run; to be stored with the end, then sent."""
        return make_frame("error", data, self._next_id())

    def announce_end(self, frames: bytes = b"", answer: bytes = b"") -> None:
        """Tell the relays that the run's row is terminal; not before it is.

        Args:
            frames: of a run that failed, its error event.
            answer: of another, what `wait` answers; empty leaves that to be read from Postgres.
        """
        end = self._batch(Kind.END, self.next_seq, 1 if frames else 0, frames)
        self._send_last(replace(end, answer=answer) if answer else end)

    def _next_id(self) -> EventId | None:
        return EventId(self.started_ms, self.next_seq) if self.is_logged else None

    def _pack(self, events: Sequence[bytes]) -> bytes:
        return b"".join(events)
