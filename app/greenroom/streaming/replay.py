"""What has passed already: batches of events out of Postgres."""

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from greenroom.database.engine import Database
from greenroom.encryption import unseal
from greenroom.streaming.frames import Batch, EventId, Kind

PAGE = 200
"""Batches read at once, so that a long replay stays small in memory."""

RUN_EVENTS = text(
    "SELECT first_seq, last_seq, frames FROM run_event "
    "WHERE run_id = :run_id AND last_seq >= :from_seq ORDER BY first_seq LIMIT :limit"
)
THREAD_RUNS = text(
    "SELECT run_id, started_at, finished_at, kept.next_seq FROM run "
    "CROSS JOIN LATERAL (SELECT max(last_seq) + 1 AS next_seq FROM run_event "
    "WHERE run_event.run_id = run.run_id) AS kept "
    "WHERE thread_id = :thread_id AND started_at IS NOT NULL AND kept.next_seq IS NOT NULL "
    "ORDER BY started_at"
)


def replay_run(database: Database, run_id: UUID, started_ms: int, from_seq: int) -> Iterator[Batch]:
    """Yield the kept batches that reach `from_seq` or beyond, a page per statement."""
    while True:
        with database.statement() as connection:
            rows = connection.execute(
                RUN_EVENTS, {"run_id": run_id, "from_seq": from_seq, "limit": PAGE}
            ).all()
        for row in rows:
            yield Batch(
                Kind.EVENTS,
                run_id,
                0,
                started_ms,
                row.first_seq,
                row.last_seq - row.first_seq + 1,
                unseal(row.frames),
            )
            from_seq = row.last_seq + 1
        if len(rows) < PAGE:
            return


def replay_thread(database: Database, thread_id: UUID, position: EventId) -> Iterator[Batch]:
    """Yield what is kept of a thread from a position on, the end of each finished run included."""
    with database.statement() as connection:
        runs = connection.execute(THREAD_RUNS, {"thread_id": thread_id}).all()
    for run in runs:
        started_ms = milliseconds(run.started_at)
        if started_ms < position.milliseconds:
            continue
        from_seq = position.number if started_ms == position.milliseconds else 0
        yield from replay_run(database, run.run_id, started_ms, from_seq)
        if run.finished_at is not None:
            yield Batch(Kind.END, run.run_id, 0, started_ms, run.next_seq, 0, b"")


def milliseconds(instant: datetime) -> int:
    """Unix time, as in the ids of events."""
    return int(instant.timestamp() * 1000)
