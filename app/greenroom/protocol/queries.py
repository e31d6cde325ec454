"""The SQL of numbered events, and of what commands ask about a thread."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from greenroom import wire
from greenroom.database.pages import AnyRow
from greenroom.encryption import unseal
from greenroom.queue.states import NOBODY

NUMBER_EVENTS = text(
    "UPDATE thread SET event_seq = 0 "
    "WHERE thread_id = :thread_id AND event_seq IS NULL AND NOT is_temporary RETURNING thread_id"
)
HAS_NO_NUMBERS = text(
    "SELECT thread_id FROM thread "
    "WHERE thread_id = :thread_id AND event_seq IS NULL AND NOT is_temporary"
)
RUNNING = text("SELECT run_id FROM run WHERE thread_id = :thread_id AND status = 'running'")
LATEST_RUNS = text(
    "SELECT run_id, assistant_id, graph_id, status, kwargs FROM run "
    "WHERE thread_id = :thread_id AND assistant_id <> :nobody ORDER BY sequence DESC LIMIT :limit"
)
LOCK_THREAD = text("SELECT status FROM thread WHERE thread_id = :thread_id FOR UPDATE")
INTERRUPTS = text("SELECT interrupts FROM thread_state WHERE thread_id = :thread_id")


def lacks_numbers(connection: Connection, thread_id: UUID) -> bool:
    """Whether there is such a thread, whose runs make no numbered events yet."""
    return connection.execute(HAS_NO_NUMBERS, {"thread_id": thread_id}).first() is not None


def number_events(connection: Connection, thread_id: UUID) -> bool:
    """Have the runs of a thread make numbered events from now on; False when they do, or none."""
    return connection.execute(NUMBER_EVENTS, {"thread_id": thread_id}).first() is not None


def find_running(connection: Connection, thread_id: UUID) -> Sequence[UUID]:
    """The run that a worker holds; at most one."""
    return connection.execute(RUNNING, {"thread_id": thread_id}).scalars().all()


def list_latest_runs(connection: Connection, thread_id: UUID, limit: int) -> Sequence[AnyRow]:
    """The newest runs of a thread: run_id, assistant_id, graph_id, status, kwargs as bytes."""
    return connection.execute(
        LATEST_RUNS, {"thread_id": thread_id, "nobody": NOBODY, "limit": limit}
    ).all()


def lock_thread(connection: Connection, thread_id: UUID) -> str | None:
    """Lock a thread until the transaction ends; its status, None when there is none."""
    status: str | None = connection.execute(
        LOCK_THREAD, {"thread_id": thread_id}
    ).scalar_one_or_none()
    return status


def find_interrupts(connection: Connection, thread_id: UUID) -> frozenset[str]:
    """Ids of what the thread's last run asked for."""
    found = connection.execute(INTERRUPTS, {"thread_id": thread_id}).scalar_one_or_none()
    by_task = wire.loads(unseal(found)) if found else {}
    return frozenset(one["id"] for interrupts in by_task.values() for one in interrupts)
