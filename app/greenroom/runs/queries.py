"""The SQL of runs outside their life in the queue."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, select, text

from greenroom import wire
from greenroom.database.engine import Statements
from greenroom.database.pages import AnyRow
from greenroom.database.scope import Scope, is_visible, visible
from greenroom.database.tables import run, thread
from greenroom.encryption import unseal
from greenroom.queue.states import NOBODY

COLUMNS = (
    run.c.run_id,
    run.c.thread_id,
    run.c.assistant_id,
    run.c.metadata,
    run.c.status,
    run.c.kwargs,
    run.c.multitask_strategy,
    run.c.created_at,
    run.c.updated_at,
)

# The three tables are langgraph's, whose thread_id is text; the run that wrote a checkpoint is in
# its metadata. A blob stays as long as any checkpoint of its namespace still names its version.
DELETE_CHECKPOINTS = text(
    """
    WITH gone AS (
        DELETE FROM checkpoints
         WHERE thread_id = :thread_id AND metadata ->> 'run_id' = ANY (:run_ids)
        RETURNING checkpoint_ns, checkpoint_id, checkpoint -> 'channel_versions' AS versions
    ), written AS (
        DELETE FROM checkpoint_writes USING gone
         WHERE checkpoint_writes.thread_id = :thread_id
           AND checkpoint_writes.checkpoint_ns = gone.checkpoint_ns
           AND checkpoint_writes.checkpoint_id = gone.checkpoint_id
    ), kept AS (
        SELECT checkpoint_ns, version.key, version.value
          FROM checkpoints CROSS JOIN jsonb_each_text(checkpoint -> 'channel_versions') AS version
         WHERE thread_id = :thread_id AND coalesce(metadata ->> 'run_id', '') <> ALL (:run_ids)
    )
    DELETE FROM checkpoint_blobs USING (
        SELECT DISTINCT checkpoint_ns, version.key, version.value
          FROM gone CROSS JOIN jsonb_each_text(versions) AS version
        EXCEPT SELECT * FROM kept
    ) AS orphan
     WHERE checkpoint_blobs.thread_id = :thread_id
       AND checkpoint_blobs.checkpoint_ns = orphan.checkpoint_ns
       AND checkpoint_blobs.channel = orphan.key AND checkpoint_blobs.version = orphan.value
    """
)

ANSWER = text(
    f"""
    SELECT run.status, run.error, state."values", state.output, 1 AS place
      FROM run LEFT JOIN thread_state AS state ON state.thread_id = run.thread_id
     WHERE run.run_id = :run_id AND run.thread_id = :thread_id
       AND (CAST(:scope AS text) IS NULL OR EXISTS (
            SELECT FROM thread
             WHERE thread.thread_id = run.thread_id AND {is_visible("thread.metadata")}))
     UNION ALL
    SELECT status, error, NULL, output, 2
      FROM run_result WHERE run_id = :run_id AND {is_visible("run_result.metadata")}
     ORDER BY place LIMIT 1
    """
)

FIND_RUN = text(
    f"""
    SELECT run_id, thread_id, assistant_id, metadata, status, kwargs, multitask_strategy,
           created_at, updated_at
      FROM run WHERE run_id = :run_id AND thread_id = :thread_id
       AND (CAST(:scope AS text) IS NULL OR EXISTS (
            SELECT FROM thread
             WHERE thread.thread_id = run.thread_id AND {is_visible("thread.metadata")}))
    """
)


def find_shown_run(
    connection: Statements, thread_id: UUID, run_id: UUID, scope: Scope = None
) -> Any | None:
    """A run of this thread as clients see it: what they ask for most; None when there is none."""
    parameters = {"thread_id": thread_id, "run_id": run_id, "scope": scope}
    row = connection.execute(FIND_RUN, parameters).one_or_none()
    return row and row._replace(kwargs=wire.loads(unseal(row.kwargs)))


def find_run(
    connection: Connection, thread_id: UUID, run_id: UUID, scope: Scope = None
) -> AnyRow | None:
    """A run of this thread with its start, for streams and joins; None when there is none."""
    query = select(*COLUMNS, run.c.error, run.c.started_at, run.c.finished_at)
    query = query.where(run.c.run_id == run_id, run.c.thread_id == thread_id)
    return connection.execute(query.where(*on_visible_thread(scope))).one_or_none()


def find_run_anywhere(connection: Connection, run_id: UUID, scope: Scope = None) -> AnyRow | None:
    """A run by its id alone, for the paths of stateless runs."""
    query = select(*COLUMNS, run.c.error, run.c.started_at, run.c.finished_at)
    query = query.where(run.c.run_id == run_id, *on_visible_thread(scope))
    return connection.execute(query).one_or_none()


def on_visible_thread(scope: Scope) -> list[ColumnElement[bool]]:
    """A run is seen by those who see its thread."""
    if scope is None:
        return []
    query = select(thread.c.thread_id).where(
        thread.c.thread_id == run.c.thread_id, *visible(thread.c.metadata, scope)
    )
    return [query.exists()]


def list_runs(
    connection: Connection,
    thread_id: UUID,
    *,
    status: str | None,
    limit: int,
    offset: int,
    scope: Scope = None,
) -> Sequence[AnyRow]:
    """A page of a thread's runs, newest first."""
    query = select(*COLUMNS).where(run.c.thread_id == thread_id, run.c.assistant_id != NOBODY)
    query = query.where(*on_visible_thread(scope))
    if status is not None:
        query = query.where(run.c.status == status)
    query = query.order_by(run.c.sequence.desc()).limit(limit).offset(offset)
    return connection.execute(query).all()


def list_active(
    connection: Connection, statuses: Sequence[str], scope: Scope = None
) -> Sequence[AnyRow]:
    """Every run of the server in these statuses: run_id, thread_id."""
    query = select(run.c.run_id, run.c.thread_id).where(
        run.c.status.in_(statuses), run.c.assistant_id != NOBODY, *on_visible_thread(scope)
    )
    return connection.execute(query).all()


def find_answer(
    connection: Statements, thread_id: UUID, run_id: UUID, scope: Scope = None
) -> AnyRow | None:
    """How a run ended and what its thread shows: status, error, values, output; None: no run.

    Of a stateless run that has gone: what it left, without values. All but the status are as they
    are stored: nobody reads them between the worker and the client.
    """
    parameters = {"thread_id": thread_id, "run_id": run_id, "scope": scope}
    return connection.execute(ANSWER, parameters).one_or_none()


def delete_checkpoints(connection: Connection, thread_id: UUID, run_ids: Sequence[UUID]) -> None:
    """Remove what runs wrote into langgraph's tables."""
    connection.execute(
        DELETE_CHECKPOINTS,
        {"thread_id": str(thread_id), "run_ids": [str(run_id) for run_id in run_ids]},
    )
