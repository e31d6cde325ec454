"""The SQL of threads, their last state, and what langgraph keeps about them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    Connection,
    LargeBinary,
    Select,
    Text,
    Uuid,
    cast,
    func,
    select,
    text,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from greenroom import encryption
from greenroom.contract.fields import UUID_FORM
from greenroom.database.engine import Statements
from greenroom.database.pages import AnyRow, Page, read_page
from greenroom.database.scope import Scope, is_visible, visible
from greenroom.database.tables import thread, thread_state

THREAD = (
    thread.c.thread_id,
    thread.c.created_at,
    thread.c.updated_at,
    thread.c.state_updated_at,
    thread.c.metadata,
    thread.c.status,
)
# As bytes of JSON: what is only passed on is never decoded.
STATE = tuple(
    type_coerce(thread_state.c[name], LargeBinary).label(name)
    for name in ("config", "values", "error", "interrupts")
)
TTL = (thread.c.ttl_minutes, thread.c.ttl_strategy, thread.c.expires_at)
HAS_STATE = thread_state.c.thread_id.is_not(None).label("has_state")
WITH_STATE = thread.outerjoin(thread_state, thread_state.c.thread_id == thread.c.thread_id)
WHOLE = select(*THREAD, *STATE, HAS_STATE, *TTL).select_from(WITH_STATE)

# langgraph's tables, whose thread_id is text and knows no foreign key.
CHECKPOINT_TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")

# In a fixed order, so that two requests never wait for each other in a circle.
LOCK_THREADS = text(
    f"""
    SELECT 1 FROM thread WHERE thread_id = ANY (CAST(:thread_ids AS uuid[]))
       AND {is_visible("metadata")}
     ORDER BY thread_id FOR UPDATE;
    SELECT run.run_id FROM run JOIN thread USING (thread_id)
     WHERE thread_id = ANY (CAST(:thread_ids AS uuid[])) AND run.status = 'running'
       AND {is_visible("thread.metadata")}
    """
)
DELETE_THREADS = text(
    "DELETE FROM thread WHERE thread_id = ANY (CAST(:thread_ids AS uuid[])) "
    f"AND {is_visible('metadata')} RETURNING thread_id"
)
# After the rows of `thread` and `run` are gone: a worker that still writes holds its run's row
# until it has committed, so that what it wrote is visible here.
DELETE_CHECKPOINTS = text(
    ";".join(
        f"DELETE FROM {table} WHERE thread_id = ANY (CAST(:thread_ids AS text[]))"
        for table in CHECKPOINT_TABLES
    )
)

RESTING_STATE = text(
    f"""
    SELECT thread.metadata ->> 'graph_id' AS graph_id, state."values", state.snapshot
      FROM thread
      LEFT JOIN thread_state AS state ON state.thread_id = thread.thread_id
       AND state.snapshot IS NOT NULL AND thread.status <> 'busy'
     WHERE thread.thread_id = :thread_id AND {is_visible("thread.metadata")}
    """
)

# Metadata are the client's to write: anything may stand there.
ADDRESS = text(
    f"""
    SELECT thread.metadata ->> 'graph_id' AS graph_id, assistant.config AS assistant_config,
           state.config AS state_config
      FROM thread
      LEFT JOIN thread_state AS state ON state.thread_id = thread.thread_id
      LEFT JOIN assistant ON assistant.graph_id = thread.metadata ->> 'graph_id'
       AND assistant.assistant_id = CASE
           WHEN thread.metadata ->> 'assistant_id' ~ '^{UUID_FORM.pattern}$'
           THEN CAST(thread.metadata ->> 'assistant_id' AS uuid) END
     WHERE thread.thread_id = :thread_id AND {is_visible("thread.metadata")}
    """
)

# One statement sees one snapshot, so that the copy is whole even while the original works.
COPY_THREAD = text(
    """
    WITH made AS (
        INSERT INTO thread (thread_id, metadata, status, ttl_minutes, ttl_strategy, expires_at)
        SELECT :copy_id, thread.metadata || CAST(:changes AS jsonb),
               coalesce(state.status, 'idle'), ttl_minutes, ttl_strategy,
               now() + make_interval(secs => ttl_minutes * 60)
          FROM thread LEFT JOIN thread_state AS state USING (thread_id)
         WHERE thread_id = :thread_id AND @visible
        RETURNING *
    ), state AS (
        INSERT INTO thread_state (thread_id, status, "values", output, interrupts, error)
        SELECT made.thread_id, original.status, original."values", original.output,
               original.interrupts, original.error
          FROM made, thread_state AS original WHERE original.thread_id = :thread_id
        RETURNING *
    ), saved AS (
        INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
                                 type, checkpoint, metadata)
        SELECT made.thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint,
               jsonb_set(original.metadata, '{thread_id}', to_jsonb(made.thread_id), false)
          FROM made, checkpoints AS original
         WHERE original.thread_id = CAST(:thread_id AS text)
    ), blobs AS (
        INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
        SELECT made.thread_id, checkpoint_ns, channel, version, type, blob
          FROM made, checkpoint_blobs AS original
         WHERE original.thread_id = CAST(:thread_id AS text)
    ), writes AS (
        INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path,
                                       idx, channel, type, blob)
        SELECT made.thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel,
               type, blob
          FROM made, checkpoint_writes AS original
         WHERE original.thread_id = CAST(:thread_id AS text)
    )
    SELECT made.thread_id, created_at, updated_at, state_updated_at, metadata, made.status,
           config, "values", error, interrupts, state.thread_id IS NOT NULL AS has_state,
           ttl_minutes, ttl_strategy, expires_at
      FROM made LEFT JOIN state ON true
    """.replace("@visible", is_visible("thread.metadata"))
)

# pg_column_size is what a JSONB takes on disk; octet_length reads no content.
STORAGE = text(
    """
    SELECT checkpoints.count AS checkpoints, checkpoints.bytes AS checkpoint_bytes,
           writes.count AS writes, writes.bytes AS write_bytes, channels.by_channel
      FROM thread, LATERAL (
           SELECT count(*), coalesce(sum(pg_column_size(checkpoint) + pg_column_size(metadata)), 0)
                  AS bytes
             FROM checkpoints WHERE thread_id = CAST(:thread_id AS text)) AS checkpoints,
           LATERAL (
           SELECT count(*), coalesce(sum(octet_length(blob)), 0) AS bytes
             FROM checkpoint_writes WHERE thread_id = CAST(:thread_id AS text)) AS writes,
           LATERAL (
           SELECT coalesce(jsonb_object_agg(channel, jsonb_build_object(
                      'versions', versions, 'bytes', bytes)), '{}') AS by_channel
             FROM (SELECT channel, count(*) AS versions,
                          coalesce(sum(octet_length(blob)), 0) AS bytes
                     FROM checkpoint_blobs WHERE thread_id = CAST(:thread_id AS text)
                    GROUP BY channel) AS each) AS channels
     WHERE thread.thread_id = :thread_id AND @visible
    """.replace("@visible", is_visible("thread.metadata"))
)

# The second looks again under the locks: a run may have come in between.
LOCK_EXPIRED_THREADS = text(
    """
    SELECT thread_id FROM thread WHERE expires_at < now() AND status <> 'busy'
     ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
    """
)
FIND_RESTING_THREADS = text(
    """
    SELECT thread_id, ttl_strategy FROM thread
     WHERE thread_id = ANY (CAST(:thread_ids AS uuid[])) AND NOT EXISTS (
           SELECT FROM run WHERE run.thread_id = thread.thread_id
              AND status IN ('pending', 'running'))
    """
)
RESTART_TTL = text(
    """
    UPDATE thread SET expires_at = now() + make_interval(secs => ttl_minutes * 60)
     WHERE thread_id = ANY (CAST(:thread_ids AS uuid[]))
    """
)

ROW = ", ".join(f"thread.{column.name}" for column in (*THREAD, *TTL))
CREATE_THREAD = text(
    f"""
    INSERT INTO thread (thread_id, metadata, ttl_minutes, ttl_strategy, expires_at)
    VALUES (:thread_id, CAST(:metadata AS jsonb), :ttl_minutes, :ttl_strategy,
            now() + make_interval(secs => CAST(:ttl_minutes AS double precision) * 60))
    ON CONFLICT DO NOTHING
    RETURNING {ROW}, NULL AS config, NULL AS "values", NULL AS error, NULL AS interrupts,
              false AS has_state
    """
)
FIND_THREAD = text(
    f"""
    SELECT {ROW}, state.config, state."values", state.error, state.interrupts,
           state.thread_id IS NOT NULL AS has_state
      FROM thread LEFT JOIN thread_state AS state ON state.thread_id = thread.thread_id
     WHERE thread.thread_id = :thread_id AND {is_visible("thread.metadata")}
    """
)


class Ttl(NamedTuple):
    """A time to live that begins now."""

    minutes: float | None
    strategy: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion found."""

    thread_ids: list[UUID] = field(default_factory=list)
    running_run_ids: list[UUID] = field(default_factory=list)
    """Gone with their threads; their workers do not know yet."""


def create_thread(
    connection: Statements, thread_id: UUID, metadata: Mapping[str, Any], ttl: Ttl | None
) -> AnyRow | None:
    """Write a thread; None when the id is taken."""
    parameters = {
        "thread_id": thread_id,
        "metadata": encryption.dumps_members(metadata).decode(),
        "ttl_minutes": ttl.minutes if ttl else None,
        "ttl_strategy": ttl.strategy if ttl and ttl.minutes is not None else None,
    }
    return connection.execute(CREATE_THREAD, parameters).one_or_none()


def find_thread(connection: Statements, thread_id: UUID, scope: Scope = None) -> AnyRow | None:
    """A whole thread, or None."""
    return connection.execute(FIND_THREAD, {"thread_id": thread_id, "scope": scope}).one_or_none()


def thread_exists(connection: Connection, thread_id: UUID, scope: Scope = None) -> bool:
    """Tell whether there is such a thread."""
    query = select(thread.c.thread_id).where(
        thread.c.thread_id == thread_id, *visible(thread.c.metadata, scope)
    )
    return connection.execute(query).one_or_none() is not None


def find_standing(connection: Connection, thread_id: UUID, scope: Scope = None) -> AnyRow | None:
    """A thread's place among others, group None if nobody was asked, and its metadata."""
    query = select(thread.c.priority, thread.c.fairness_group, thread.c.metadata).where(
        thread.c.thread_id == thread_id, *visible(thread.c.metadata, scope)
    )
    return connection.execute(query).one_or_none()


def patch_thread(
    connection: Connection,
    thread_id: UUID,
    metadata: Mapping[str, Any] | None,
    ttl: Ttl | None,
    scope: Scope = None,
) -> AnyRow | None:
    """Merge the top level of the metadata and begin a new time to live; None: no such thread."""
    changes = ttl_values(ttl)
    if metadata:
        changes["metadata"] = thread.c.metadata.op("||")(cast(dict(metadata), JSONB))
    changed = (
        update(thread)
        .where(thread.c.thread_id == thread_id, *visible(thread.c.metadata, scope))
        .values(updated_at=func.clock_timestamp(), **changes)
        .returning(*THREAD, *TTL)
        .cte("changed")
    )
    joined = changed.outerjoin(thread_state, thread_state.c.thread_id == changed.c.thread_id)
    return connection.execute(
        select(*changed.c, *STATE, HAS_STATE).select_from(joined)
    ).one_or_none()


def delete_threads(
    connection: Connection, thread_ids: Collection[UUID], scope: Scope = None
) -> Deleted:
    """Remove threads with everything of theirs, in every table. Wants a transaction."""
    if not thread_ids:
        return Deleted()
    parameters = {**_ids(thread_ids), "scope": scope}
    running = connection.execute(LOCK_THREADS, parameters).scalars().all()
    deleted = connection.execute(DELETE_THREADS, parameters).scalars().all()
    delete_checkpoints(connection, deleted)
    return Deleted(list(deleted), list(running))


def delete_checkpoints(connection: Connection, thread_ids: Sequence[UUID]) -> None:
    """Remove what langgraph keeps about threads."""
    if thread_ids:
        connection.execute(DELETE_CHECKPOINTS, _ids(thread_ids))


def lock_expired_threads(connection: Connection, limit: int) -> list[tuple[UUID, str]]:
    """Some of the threads whose time is over and that nothing works on: (id, strategy).

    They are locked until the transaction ends; those that another sweep has are left to it.
    """
    locked = connection.execute(LOCK_EXPIRED_THREADS, {"limit": limit}).scalars().all()
    if not locked:
        return []
    rows = connection.execute(FIND_RESTING_THREADS, _ids(locked))
    return [(row.thread_id, row.ttl_strategy) for row in rows]


def restart_ttl(connection: Connection, thread_ids: Sequence[UUID]) -> None:
    """Let the time to live begin anew."""
    if thread_ids:
        connection.execute(RESTART_TTL, _ids(thread_ids))


def copy_thread(
    connection: Connection,
    thread_id: UUID,
    copy_id: UUID,
    changes: Mapping[str, Any] | None = None,
    scope: Scope = None,
) -> AnyRow | None:
    """Write a copy of a thread, its state and its history, without its runs; None: no original.

    Args:
        changes: of the metadata.
    """
    parameters = {
        "thread_id": thread_id,
        "copy_id": copy_id,
        "changes": encryption.dumps_members(changes or {}).decode(),
        "scope": scope,
    }
    return connection.execute(COPY_THREAD, parameters).one_or_none()


def read_storage(connection: Connection, thread_id: UUID, scope: Scope = None) -> AnyRow | None:
    """How much langgraph keeps about a thread; None: no such thread."""
    return connection.execute(STORAGE, {"thread_id": thread_id, "scope": scope}).one_or_none()


def list_threads_of_assistant(connection: Connection, assistant_id: UUID) -> Sequence[UUID]:
    """The threads on which an assistant ran last."""
    query = select(thread.c.thread_id).where(
        thread.c.metadata.contains({"assistant_id": str(assistant_id)})
    )
    return connection.execute(query).scalars().all()


def search_threads(
    connection: Connection,
    conditions: Sequence[Any],
    *,
    fields: Collection[str],
    sort_by: str,
    is_descending: bool,
    limit: int,
    offset: int,
) -> Page:
    """A page of threads with the named fields.

    Args:
        fields: `thread` and `thread_state` columns; empty for the whole thread.
    """
    query = WHOLE
    if fields:
        query = _narrow(fields)
    column = thread.c[sort_by]
    # As the index has it, so that ties cost nothing.
    order = (
        [column.desc(), thread.c.thread_id]
        if is_descending
        else [column, thread.c.thread_id.desc()]
    )
    return read_page(connection, query.where(*conditions), order, limit, offset)


def count_threads(connection: Connection, conditions: Sequence[Any]) -> int:
    """How many threads match."""
    query = select(func.count()).select_from(WITH_STATE).where(*conditions)
    count: int = connection.execute(query).scalar_one()
    return count


def conditions(
    *,
    ids: Collection[UUID] | None = None,
    metadata: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    status: str | None = None,
    scope: Scope = None,
) -> list[Any]:
    """What the filters of search and count mean; None does not filter.

    The threads of stateless runs are never found.
    """
    found: list[Any] = [~thread.c.is_temporary, *visible(thread.c.metadata, scope)]
    if ids:
        # One parameter, whatever their number: one prepared statement, no limit on parameters.
        given = cast([str(each) for each in ids], ARRAY(Text))
        found.append(thread.c.thread_id == func.any(cast(given, ARRAY(Uuid))))
    if metadata:
        found.append(thread.c.metadata.contains(encryption.searchable(metadata)))
    if values:
        # JSONB holds no NUL; the wire shows it as U+FFFD.
        stored = func.convert_from(type_coerce(thread_state.c["values"], LargeBinary), "UTF8")
        found.append(cast(func.replace(stored, "\\u0000", "\\ufffd"), JSONB).contains(values))
    if status is not None:
        found.append(thread.c.status == status)
    return found


def find_address(connection: Statements, thread_id: UUID, scope: Scope = None) -> AnyRow | None:
    """What a state call needs: graph_id (or None), assistant_config, state_config; None: no thread.

    The assistant's config is that of the one that ran last, if it still belongs to that graph. Both
    are as they are stored.
    """
    return connection.execute(ADDRESS, {"thread_id": thread_id, "scope": scope}).one_or_none()


def find_resting_state(connection: Statements, thread_id: UUID, scope: Scope = None) -> Any:
    """A thread's `graph_id`, and the JSON of `values` and `snapshot` where they are up to date.

    None: no such thread.
    """
    parameters = {"thread_id": thread_id, "scope": scope}
    return connection.execute(RESTING_STATE, parameters).one_or_none()


def _narrow(fields: Collection[str]) -> Select[Any]:
    plain = [column for column in THREAD if column.name in fields]
    state = [column for column in STATE if column.name in fields]
    # Without a column there is nothing to read from thread_state, and the planner drops the join.
    return select(*plain, *state).select_from(WITH_STATE)


def ttl_values(ttl: Ttl | None) -> dict[str, Any]:
    """The columns of a ttl that begins now; {} for None, which changes nothing."""
    if ttl is None:
        return {}
    if ttl.minutes is None:
        return {"ttl_minutes": None, "ttl_strategy": None, "expires_at": None}
    life = func.make_interval(0, 0, 0, 0, 0, 0, ttl.minutes * 60)
    return {
        "ttl_minutes": ttl.minutes,
        "ttl_strategy": ttl.strategy,
        "expires_at": func.now() + life,
    }


def _ids(thread_ids: Collection[UUID]) -> dict[str, list[str]]:
    return {"thread_ids": [str(thread_id) for thread_id in thread_ids]}
