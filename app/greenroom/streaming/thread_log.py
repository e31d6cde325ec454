"""`thread_event`: the numbered events of a thread, kept for replays."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from greenroom import wire
from greenroom.database.engine import Database
from greenroom.encryption import seal, unseal
from greenroom.streaming.frames import Batch, Kind
from greenroom.streaming.replay import milliseconds
from greenroom.streaming.spans import Event, make_event_frame, make_key, pack_spans

PAGE = 200
PAGE_BYTES = 1024 * 1024
"""A page ends with the batch that reaches this: what one reader holds of a long replay."""

EVENTS = text(
    "SELECT first_seq, last_seq, run_id, spans FROM ("
    "SELECT *, sum(octet_length(spans)) OVER (ORDER BY first_seq) - octet_length(spans) AS before "
    "FROM (SELECT * FROM thread_event WHERE thread_id = :thread_id AND first_seq >= coalesce(("
    # The batch in whose middle the reader stopped begins earlier.
    "SELECT first_seq FROM (SELECT first_seq, last_seq FROM thread_event "
    "WHERE thread_id = :thread_id AND first_seq <= :from_seq ORDER BY first_seq DESC LIMIT 1) "
    "AS around WHERE last_seq >= :from_seq), :from_seq) "
    "ORDER BY first_seq LIMIT :limit) AS page) AS counted "
    "WHERE before < :page_bytes ORDER BY first_seq"
)
LAST = text(
    "SELECT watched.thread_id, newest.last_seq "
    "FROM unnest(CAST(:thread_ids AS uuid[])) AS watched (thread_id) "
    "CROSS JOIN LATERAL (SELECT last_seq FROM thread_event "
    "WHERE thread_event.thread_id = watched.thread_id ORDER BY first_seq DESC LIMIT 1) AS newest"
)

# Not while another run is on its way: the next numbers are that one's to give.
NEXT = text(
    "SELECT run.graph_id, now() AS ended_at, "
    "greatest(thread.event_seq, newest.last_seq) AS last_seq FROM thread "
    "JOIN run ON run.thread_id = thread.thread_id AND run.run_id = :run_id "
    "LEFT JOIN LATERAL (SELECT last_seq FROM thread_event "
    "WHERE thread_event.thread_id = thread.thread_id ORDER BY first_seq DESC LIMIT 1) AS newest "
    "ON true WHERE thread.thread_id = :thread_id AND thread.event_seq IS NOT NULL "
    "AND (SELECT sequence FROM run AS other WHERE other.thread_id = :thread_id "
    "AND other.status = 'running' ORDER BY sequence LIMIT 1) IS NULL"
)
ADD = text(
    "INSERT INTO thread_event (thread_id, first_seq, last_seq, run_id, spans) "
    "VALUES (:thread_id, :seq, :seq, :run_id, :spans); "
    "UPDATE thread SET event_seq = :seq WHERE thread_id = :thread_id"
)

FAREWELL = text(
    "UPDATE thread SET event_seq = event_seq + 1 "
    "WHERE thread_id = :thread_id AND event_seq IS NOT NULL "
    "RETURNING event_seq - 1 AS last_seq, now() AS ended_at"
)


def read_page(database: Database, thread_id: UUID, from_seq: int) -> list[Batch]:
    """The kept batches that reach a number or come after it, as many as one reader may hold."""
    with database.statement() as connection:
        rows = connection.execute(
            EVENTS,
            {
                "thread_id": thread_id,
                "from_seq": from_seq,
                "limit": PAGE,
                "page_bytes": PAGE_BYTES,
            },
        ).all()
    return [
        Batch(
            Kind.EVENTS,
            row.run_id,
            0,
            0,
            row.first_seq,
            row.last_seq - row.first_seq + 1,
            unseal(row.spans),
        )
        for row in rows
    ]


def replay_events(database: Database, thread_id: UUID, from_seq: int) -> Iterator[Batch]:
    """Yield what is kept of a thread from a number on; no connection is held in between."""
    while page := read_page(database, thread_id, from_seq):
        yield from page
        from_seq = page[-1].next_seq


def add_end(
    connection: Connection, thread_id: UUID, run_id: UUID, event: str, error: str | None = None
) -> Batch | None:
    """Tell the readers of a thread about the end of a run that no worker ends.

    Wants the thread's lock, and the run's end in the same transaction.

    Args:
        event: failed or interrupted.
    Returns:
        What to send them once it is committed; None when nobody is to be told.
    """
    row = connection.execute(NEXT, {"thread_id": thread_id, "run_id": run_id}).one_or_none()
    if row is None:
        return None
    told = {"event": event, "graph_name": row.graph_id}
    batch = _end(run_id, row, told if error is None else {**told, "error": error})
    parameters = {"thread_id": thread_id, "run_id": run_id}
    connection.execute(ADD, {**parameters, "seq": batch.first_seq, "spans": seal(batch.frames)})
    return batch


def add_farewell(
    connection: Connection, thread_id: UUID, run_id: UUID, graph_id: str
) -> Batch | None:
    """The same of a run that was on its way and has been deleted: nobody can replay it."""
    row = connection.execute(FAREWELL, {"thread_id": thread_id}).one_or_none()
    if row is None:
        return None
    return _end(run_id, row, {"event": "interrupted", "graph_name": graph_id})


def _end(run_id: UUID, row: Any, told: dict[str, Any]) -> Batch:
    seq = row.last_seq + 1
    frame = make_event_frame(
        "lifecycle",
        wire.dumps(told),
        namespace=b"[]",
        milliseconds=milliseconds(row.ended_at),
        event_id=f"synth:{run_id}:lc||{told['event']}",
        seq=seq,
    )
    spans = pack_spans([Event(make_key("lifecycle", ()), frame)])
    return Batch(Kind.EVENTS, run_id, 0, 0, seq, 1, spans)


def find_last(connection: Connection, thread_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The number of the newest kept event of each thread that has one."""
    rows = connection.execute(LAST, {"thread_ids": [str(one) for one in thread_ids]})
    return {row.thread_id: row.last_seq for row in rows}
