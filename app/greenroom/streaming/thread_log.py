"""`thread_event`: the numbered events of a thread, kept for replays."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from greenroom.database.engine import Database
from greenroom.streaming.frames import Batch, Kind

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
            bytes(row.spans),
        )
        for row in rows
    ]


def replay_events(database: Database, thread_id: UUID, from_seq: int) -> Iterator[Batch]:
    """Yield what is kept of a thread from a number on; no connection is held in between."""
    while page := read_page(database, thread_id, from_seq):
        yield from page
        from_seq = page[-1].next_seq


def find_last(connection: Connection, thread_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The number of the newest kept event of each thread that has one."""
    rows = connection.execute(LAST, {"thread_ids": [str(one) for one in thread_ids]})
    return {row.thread_id: row.last_seq for row in rows}
