"""A state update takes its thread's slot, as a run does: neither works on what the other changes.

The update itself happens in the graphs process, and no database session may be held meanwhile. So
the update leaves a row in `run` that is `running` under a lease: runs that come are queued behind
it, or refused with the strategy `reject`, and giving the slot back promotes the next. Should the
web process die with the slot, the lease runs out and the row, which was born with the wish to be
rolled back, is removed by the next worker like any other rolled back run.
"""

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from greenroom import wire
from greenroom.database.engine import Database
from greenroom.database.scope import Scope, is_visible
from greenroom.encryption import seal
from greenroom.errors import Conflict, ThreadNotFound
from greenroom.identifiers import new_id
from greenroom.queue.life import settle
from greenroom.queue.states import NOBODY
from greenroom.threads.queries import delete_checkpoints

HOLDER = "state update"
"""The `worker_id` of the row."""
LEASE_SECONDS = 100.0
"""Above the longest call to the graphs process (GraphsClient, 75 s and 5 to connect)."""
PATIENCE_SECONDS = 10.0
"""How long an update waits for another update of the same thread."""
NAMED_RUNS = 5

TAKE_SLOT = text(
    """
    SELECT 1 FROM thread WHERE thread_id = :thread_id AND @visible FOR UPDATE;
    WITH target AS (
        SELECT thread_id FROM thread WHERE thread_id = :thread_id AND @visible
    ), active AS (
        SELECT run_id, assistant_id FROM run
         WHERE thread_id = :thread_id AND status IN ('pending', 'running')
         ORDER BY sequence LIMIT :named_runs
    ), taken AS (
        INSERT INTO run (run_id, thread_id, assistant_id, graph_id, status, multitask_strategy,
                         metadata, kwargs, worker_id, lease_expires_at, cancel_action, started_at)
        SELECT :run_id, thread_id, :nobody, :graph_id, 'running', 'enqueue', '{}', '{}', :holder,
               now() + make_interval(secs => :lease_seconds), 'rollback', now()
          FROM target WHERE NOT EXISTS (SELECT FROM active)
        RETURNING run_id
    ), clouded AS (
        -- Should the update be lost on its way, nobody knows what it has written.
        UPDATE thread_state SET snapshot = NULL
         WHERE thread_id = :thread_id AND EXISTS (SELECT FROM taken)
    )
    SELECT EXISTS (SELECT FROM target) AS found, EXISTS (SELECT FROM taken) AS taken,
           (SELECT assistant_id = :nobody FROM active LIMIT 1) AS is_update,
           ARRAY(SELECT run_id FROM active) AS run_ids
    """.replace("@visible", is_visible("metadata"))
)
GIVE_BACK = text(
    """
    SELECT 1 FROM thread WHERE thread_id = :thread_id FOR UPDATE;
    WITH given AS (
        DELETE FROM run WHERE run_id = :run_id AND status = 'running' AND worker_id = :holder
        RETURNING run_id
    )
    SELECT EXISTS (SELECT FROM thread WHERE thread_id = :thread_id) AS found,
           EXISTS (SELECT FROM given) AS given
    """
)
REFRESH_STATE = text(
    """
    INSERT INTO thread_state (thread_id, status, "values", interrupts)
    VALUES (:thread_id, :status, :values, :interrupts)
    ON CONFLICT (thread_id) DO UPDATE SET status = excluded.status, "values" = excluded."values",
       output = NULL, interrupts = excluded.interrupts, error = NULL;
    UPDATE thread SET state_updated_at = now() WHERE thread_id = :thread_id
    """
)


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to write into a thread until it is given back."""

    thread_id: UUID
    run_id: UUID


def take_slot(database: Database, thread_id: UUID, graph_id: str, scope: Scope = None) -> Slot:
    """Take a thread's slot; waits for another update, not for a run.

    Raises:
        ThreadNotFound: no such thread.
        Conflict: a run is pending or running, or another update takes too long.
    """
    slot = Slot(thread_id, new_id())
    parameters = {
        "thread_id": thread_id,
        "run_id": slot.run_id,
        "nobody": NOBODY,
        "graph_id": graph_id,
        "holder": HOLDER,
        "lease_seconds": LEASE_SECONDS,
        "named_runs": NAMED_RUNS,
        "scope": scope,
    }
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    pause_seconds = 0.01
    while True:
        with database.statement() as connection:
            row = connection.execute(TAKE_SLOT, parameters).one()
        if not row.found:
            raise ThreadNotFound(thread_id)
        if row.taken:
            return slot
        if not row.is_update or time.monotonic() > give_up_at:
            runs = ", ".join(str(run_id) for run_id in row.run_ids)
            raise Conflict(f"Thread {thread_id} has in-flight runs: {runs}")
        time.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, 0.25)


def give_back(database: Database, slot: Slot, thread: dict[str, Any] | None) -> bool:
    """Give a slot back, and show on the thread's row what an update has left.

    Args:
        thread: `{"status", "values", "interrupts"}`; None when nothing was written.
    Returns:
        Whether another run became ready.
    Raises:
        ThreadNotFound: the thread was deleted meanwhile; what the update wrote goes, too.
        Conflict: the update outlived its lease, and the thread is somebody else's.
    """
    with database.transaction() as connection:
        row = connection.execute(
            GIVE_BACK,
            {"thread_id": slot.thread_id, "run_id": slot.run_id, "holder": HOLDER},
        ).one()
        has_next = False
        if row.given:
            if thread is not None:
                _refresh(connection, slot.thread_id, thread)
            has_next = settle(connection, slot.thread_id)
        elif not row.found:
            # langgraph's tables know no foreign key.
            delete_checkpoints(connection, [slot.thread_id])
    if row.given or thread is None:
        return has_next
    if not row.found:
        raise ThreadNotFound(slot.thread_id)
    raise Conflict(f"The update of thread {slot.thread_id} took too long and came too late")


def _refresh(connection: Connection, thread_id: UUID, thread: dict[str, Any]) -> None:
    connection.execute(
        REFRESH_STATE,
        {
            "thread_id": thread_id,
            "status": thread["status"],
            "values": seal(wire.dumps(thread["values"])),
            "interrupts": seal(wire.dumps(thread["interrupts"])),
        },
    )
