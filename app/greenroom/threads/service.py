"""The rules of threads."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from greenroom import encryption
from greenroom.database.engine import Database
from greenroom.database.pages import Page
from greenroom.database.scope import Scope
from greenroom.errors import BadRequest, Conflict, ThreadNotFound
from greenroom.identifiers import new_id
from greenroom.threads import pruning, queries
from greenroom.threads.extract import parse_path
from greenroom.threads.render import selected_thread, thread_object
from greenroom.threads.schemas import (
    ThreadCount,
    ThreadCreate,
    ThreadPatch,
    ThreadPrune,
    ThreadSearch,
    Ttl,
)

Json = dict[str, Any]
SWEEP_LIMIT = 100
"""Threads that one sweep takes on at most, so that none holds its locks for long."""


def create(
    database: Database,
    body: ThreadCreate,
    default_ttl: queries.Ttl | None = None,
    scope: Scope = None,
) -> tuple[Json, bool]:
    """Make a thread, without its supersteps; tell whether it is new.

    Raises:
        Conflict: the id is taken, and the request does not take what is there.
    """
    thread_id = body.thread_id or new_id()
    with database.direct() as connection:
        made = queries.create_thread(
            connection, thread_id, body.metadata, _ttl(body.ttl) or default_ttl
        )
        found = None
        if made is None and body.if_exists == "do_nothing":
            found = queries.find_thread(connection, thread_id, scope)
    row = made or found
    if row is None:
        raise Conflict(f"Thread with ID {thread_id} already exists")
    return thread_object(row), made is not None


def get(
    database: Database, thread_id: UUID, scope: Scope = None, *, with_ttl: bool = False
) -> Json:
    """Read a thread.

    Raises:
        ThreadNotFound: no such thread.
    """
    with database.direct() as connection:
        found = queries.find_thread(connection, thread_id, scope)
    if found is None:
        raise ThreadNotFound(thread_id)
    return thread_object(found, with_ttl=with_ttl)


def patch(database: Database, thread_id: UUID, body: ThreadPatch, scope: Scope = None) -> Json:
    """Merge metadata at the top level; nulls are kept. A new ttl begins now.

    Raises:
        ThreadNotFound: no such thread.
    """
    with database.statement() as connection:
        changed = queries.patch_thread(connection, thread_id, body.metadata, _ttl(body.ttl), scope)
    if changed is None:
        raise ThreadNotFound(thread_id)
    return thread_object(changed)


def delete(database: Database, thread_id: UUID, scope: Scope = None) -> list[UUID]:
    """Remove a thread with all that is its own, also while it is busy.

    Returns:
        The runs that were running: tell their workers.
    Raises:
        ThreadNotFound: no such thread.
    """
    with database.transaction() as connection:
        deleted = queries.delete_threads(connection, [thread_id], scope)
    if not deleted.thread_ids:
        raise ThreadNotFound(thread_id)
    return deleted.running_run_ids


def search(database: Database, body: ThreadSearch, scope: Scope = None) -> tuple[list[Json], Page]:
    """Find threads, and tell the page that they are."""
    fields = tuple(dict.fromkeys(body.select or ()))
    paths = {alias: parse_path(path) for alias, path in (body.extract or {}).items()}
    # What is only extracted from must be read as well.
    refuse_hidden_values(body)
    needed = {*fields, *(str(path[0]) for path in paths.values())} if fields else set()
    with database.statement() as connection:
        page = queries.search_threads(
            connection,
            queries.conditions(
                ids=body.ids,
                metadata=body.metadata,
                values=body.values,
                status=body.status,
                scope=scope,
            ),
            fields=needed,
            sort_by=body.sort_by,
            is_descending=body.sort_order == "desc",
            limit=body.limit,
            offset=body.offset,
        )
    return [selected_thread(row, fields, paths) for row in page.rows], page


def refuse_hidden_values(body: ThreadCount) -> None:
    """Refuse what Postgres cannot look for.

    Raises:
        BadRequest: a filter on values, which are encrypted.
    """
    if body.values and encryption.is_on():
        raise BadRequest("values are encrypted: threads cannot be searched by them")


def count(database: Database, body: ThreadCount, scope: Scope = None) -> int:
    """Count threads."""
    refuse_hidden_values(body)
    with database.statement() as connection:
        return queries.count_threads(
            connection,
            queries.conditions(
                metadata=body.metadata, values=body.values, status=body.status, scope=scope
            ),
        )


def prune(database: Database, body: ThreadPrune, scope: Scope = None) -> tuple[int, list[UUID]]:
    """Delete threads, or reduce each to its newest checkpoints.

    Busy threads are deleted, but not reduced: what runs on them needs its checkpoints.

    Returns:
        How many threads were pruned, and the runs that were running on them.
    """
    thread_ids = sorted(set(body.thread_ids))
    if body.strategy == "delete":
        with database.transaction() as connection:
            deleted = queries.delete_threads(connection, thread_ids, scope)
        return len(deleted.thread_ids), deleted.running_run_ids
    pruned = 0
    for thread_id in thread_ids:
        with database.transaction() as connection:
            pruned += pruning.keep_latest(connection, thread_id, scope)
    return pruned, []


def sweep_expired(database: Database, limit: int = SWEEP_LIMIT) -> int:
    """Apply the ttl of up to `limit` threads that nothing works on; tells how many there were.

    Strategy delete removes a thread; keep_latest reduces it, and its time begins anew.
    """
    with database.transaction() as connection:
        expired = queries.lock_expired_threads(connection, limit)
        queries.delete_threads(connection, [key for key, how in expired if how == "delete"])
        kept = [key for key, how in expired if how == "keep_latest"]
        for thread_id in kept:
            pruning.keep_latest(connection, thread_id)
        queries.restart_ttl(connection, kept)
    return len(expired)


def copy(
    database: Database,
    thread_id: UUID,
    changes: Mapping[str, Any] | None = None,
    scope: Scope = None,
) -> Json:
    """Make a thread with the same metadata, state and history, and no runs.

    Args:
        changes: of the metadata.
    Raises:
        ThreadNotFound: no such thread.
    """
    with database.statement() as connection:
        made = queries.copy_thread(connection, thread_id, uuid4(), changes, scope)
    if made is None:
        raise ThreadNotFound(thread_id)
    return thread_object(made)


def read_storage(database: Database, thread_id: UUID, scope: Scope = None) -> Json:
    """Tell how much is kept about a thread.

    Raises:
        ThreadNotFound: no such thread.
    """
    with database.statement() as connection:
        row = queries.read_storage(connection, thread_id, scope)
    if row is None:
        raise ThreadNotFound(thread_id)
    by_channel: dict[str, dict[str, int]] = row.by_channel
    channels = {
        "count": sum(channel["versions"] for channel in by_channel.values()),
        "bytes": sum(channel["bytes"] for channel in by_channel.values()),
        "by_channel": by_channel,
    }
    checkpoints = {"count": row.checkpoints, "bytes": int(row.checkpoint_bytes)}
    writes = {"count": row.writes, "bytes": int(row.write_bytes)}
    return {
        "thread_id": thread_id,
        "total_bytes": checkpoints["bytes"] + channels["bytes"] + writes["bytes"],
        "checkpoints": checkpoints,
        "channel_values": channels,
        "pending_writes": writes,
    }


def _ttl(ttl: Ttl | None) -> queries.Ttl | None:
    return queries.Ttl(ttl.ttl, ttl.strategy) if ttl else None
