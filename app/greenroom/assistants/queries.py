"""The SQL of assistants and their versions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from greenroom import wire
from greenroom.contract.fields import parse_uuid
from greenroom.database.engine import Statements
from greenroom.database.pages import AnyRow, Page, read_page
from greenroom.database.scope import Scope, is_visible, visible
from greenroom.database.tables import assistant, assistant_version
from greenroom.encryption import searchable, unseal
from greenroom.identifiers import system_assistant_id

COLUMNS = (
    assistant.c.assistant_id,
    assistant.c.graph_id,
    assistant.c.config,
    assistant.c.context,
    assistant.c.metadata,
    assistant.c.name,
    assistant.c.created_at,
    assistant.c.updated_at,
    assistant.c.version,
    assistant.c.description,
)
VERSION_COLUMNS = (
    assistant_version.c.assistant_id,
    assistant_version.c.version,
    assistant_version.c.graph_id,
    assistant_version.c.config,
    assistant_version.c.context,
    assistant_version.c.metadata,
    assistant_version.c.created_at,
    assistant_version.c.name,
    assistant_version.c.description,
)

# On the way of every run: a text, so that it can go without SQLAlchemy's execution layer.
FIND_FOR_RUN = text(
    "SELECT assistant_id, graph_id, config, context, metadata, updated_at, "
    f"{is_visible('metadata')} AS is_visible FROM assistant WHERE assistant_id = :assistant_id"
)

# A description follows langgraph.json until somebody makes a second version.
ENSURE_SYSTEM_ASSISTANT = text(
    """
    WITH ensured AS (
        INSERT INTO assistant (assistant_id, graph_id, name, description, config, context,
                               metadata, version)
        VALUES (:assistant_id, :graph_id, :graph_id, :description, '{}', '{}',
                '{"created_by": "system"}', 1)
        ON CONFLICT (assistant_id) DO UPDATE
           SET description = excluded.description, updated_at = now()
         WHERE assistant.version = 1
           AND assistant.metadata @> '{"created_by": "system"}'
           AND assistant.description IS DISTINCT FROM excluded.description
        RETURNING assistant.*
    )
    INSERT INTO assistant_version (assistant_id, version, graph_id, name, description, config,
                                   context, metadata)
    SELECT assistant_id, version, graph_id, name, description, config, context, metadata
      FROM ensured
    ON CONFLICT (assistant_id, version) DO UPDATE SET description = excluded.description
    """
)


def ensure_system_assistant(connection: Connection, graph_id: str, description: str | None) -> None:
    """Make a graph's own assistant unless it is there, whoever else does the same right now."""
    connection.execute(
        ENSURE_SYSTEM_ASSISTANT,
        {
            "assistant_id": system_assistant_id(graph_id),
            "graph_id": graph_id,
            "description": description,
        },
    )


def create_assistant(connection: Connection, fields: Mapping[str, Any]) -> AnyRow | None:
    """Write an assistant and its first version; None when the id is taken."""
    made = insert(assistant).values(version=1, **fields).on_conflict_do_nothing()
    return connection.execute(_with_version(made.returning(*COLUMNS))).one_or_none()


def find_assistant(
    connection: Connection, assistant_id: UUID, scope: Scope = None
) -> AnyRow | None:
    """One assistant, or None."""
    return connection.execute(_by_id(assistant_id, scope)).one_or_none()


def lock_assistant(
    connection: Connection, assistant_id: UUID, scope: Scope = None
) -> AnyRow | None:
    """One assistant that nobody else changes until this transaction ends, or None."""
    return connection.execute(_by_id(assistant_id, scope).with_for_update()).one_or_none()


@dataclass(frozen=True, slots=True)
class ForRun:
    """What a run needs to know about its assistant."""

    assistant_id: UUID
    graph_id: str
    config: dict[str, Any]
    context: dict[str, Any]
    metadata: dict[str, Any]
    updated_at: datetime


def find_for_run(
    connection: Statements, key: str | UUID, scope: Scope = None, *, is_shared: bool = True
) -> ForRun | None:
    """Find the assistant of a run, or None.

    Args:
        key: an assistant's id, or a graph id, which means that graph's system assistant.
        is_shared: a graph's system assistant is there for everybody, whatever the scope.
    """
    parameters = {"assistant_id": _read_key(key), "scope": scope}
    row = connection.execute(FIND_FOR_RUN, parameters).one_or_none()
    if row is None:
        return None
    is_system = is_shared and row.assistant_id == system_assistant_id(row.graph_id)
    if not (row.is_visible or is_system):
        return None
    return ForRun(
        row.assistant_id,
        row.graph_id,
        wire.loads(unseal(row.config)),
        wire.loads(unseal(row.context)),
        row.metadata,
        row.updated_at,
    )


def add_version(connection: Connection, assistant_id: UUID, changes: Mapping[str, Any]) -> AnyRow:
    """Write the next version. Wants the assistant's lock, under which the number is free."""
    newest = select(func.max(assistant_version.c.version)).where(
        assistant_version.c.assistant_id == assistant_id
    )
    changed = (
        update(assistant)
        .where(assistant.c.assistant_id == assistant_id)
        # Not now(): this transaction may have begun before the one that it had to wait for.
        .values(version=newest.scalar_subquery() + 1, updated_at=func.clock_timestamp(), **changes)
    )
    return connection.execute(_with_version(changed.returning(*COLUMNS))).one()


def restore_version(
    connection: Connection, assistant_id: UUID, version: int, scope: Scope = None
) -> AnyRow | None:
    """Make an old version the current one, in all its fields; None when there is no such."""
    names = ("graph_id", "config", "context", "metadata", "name", "description", "version")
    statement = (
        update(assistant)
        .where(
            assistant.c.assistant_id == assistant_id,
            assistant_version.c.assistant_id == assistant.c.assistant_id,
            assistant_version.c.version == version,
            *visible(assistant.c.metadata, scope),
        )
        .values(
            updated_at=func.clock_timestamp(), **{name: assistant_version.c[name] for name in names}
        )
    )
    return connection.execute(statement.returning(*COLUMNS)).one_or_none()


def delete_assistant(connection: Connection, assistant_id: UUID, scope: Scope = None) -> bool:
    """Remove an assistant and its versions; False when it was not there."""
    statement = assistant.delete().where(
        assistant.c.assistant_id == assistant_id, *visible(assistant.c.metadata, scope)
    )
    return connection.execute(statement).rowcount > 0


def search_assistants(
    connection: Connection,
    conditions: Sequence[Any],
    *,
    fields: Collection[str],
    sort_by: str,
    is_descending: bool,
    limit: int,
    offset: int,
) -> Page:
    """A page of assistants with the named fields alone."""
    query = select(*(column for column in COLUMNS if column.name in fields)).where(*conditions)
    column = assistant.c[sort_by]
    # As the index has it, so that ties cost nothing.
    tie = assistant.c.assistant_id
    order = [column.desc(), tie] if is_descending else [column, tie.desc()]
    return read_page(connection, query.select_from(assistant), order, limit, offset)


def count_assistants(connection: Connection, conditions: Sequence[Any]) -> int:
    """How many assistants match."""
    query = select(func.count()).select_from(assistant).where(*conditions)
    count: int = connection.execute(query).scalar_one()
    return count


def conditions(
    *,
    metadata: Mapping[str, Any] | None,
    graph_id: str | None,
    name: str | None,
    scope: Scope = None,
) -> list[Any]:
    """What the filters of search and count mean; None does not filter."""
    found: list[Any] = visible(assistant.c.metadata, scope)
    if metadata:
        found.append(assistant.c.metadata.contains(searchable(metadata)))
    if graph_id is not None:
        found.append(assistant.c.graph_id == graph_id)
    if name:
        # Not LIKE, whose wildcards a name may contain.
        found.append(func.strpos(func.lower(assistant.c.name), func.lower(name)) > 0)
    return found


def list_versions(
    connection: Connection,
    assistant_id: UUID,
    *,
    metadata: Mapping[str, Any] | None,
    limit: int,
    offset: int,
    scope: Scope = None,
) -> Sequence[AnyRow]:
    """Versions of an assistant, newest first."""
    query = select(*VERSION_COLUMNS).where(assistant_version.c.assistant_id == assistant_id)
    if scope is not None:
        # What counts is whose it is now, not whose it was.
        query = query.where(assistant_version.c.assistant_id == assistant.c.assistant_id)
        query = query.where(*visible(assistant.c.metadata, scope))
    if metadata:
        query = query.where(assistant_version.c.metadata.contains(searchable(metadata)))
    query = query.order_by(assistant_version.c.version.desc()).limit(limit).offset(offset)
    return connection.execute(query).all()


def assistant_exists(connection: Connection, assistant_id: UUID, scope: Scope = None) -> bool:
    """Tell whether there is such an assistant."""
    query = select(literal(1)).where(
        assistant.c.assistant_id == assistant_id, *visible(assistant.c.metadata, scope)
    )
    return connection.execute(query).one_or_none() is not None


def _by_id(assistant_id: UUID, scope: Scope) -> Select[Any]:
    return select(*COLUMNS).where(
        assistant.c.assistant_id == assistant_id, *visible(assistant.c.metadata, scope)
    )


def _with_version(written: ReturningInsert[Any] | ReturningUpdate[Any]) -> Select[Any]:
    """Keep what a statement wrote as a version, in the same round trip."""
    rows = written.cte("written")
    names = ("assistant_id", "version", "graph_id", "name", "description", "config", "context")
    copied = [*names, "metadata"]
    kept = insert(assistant_version).from_select(
        [*copied, "created_at"], select(*(rows.c[name] for name in copied), rows.c.updated_at)
    )
    return select(rows).add_cte(kept.cte("kept"))


def _read_key(key: str | UUID) -> UUID:
    try:
        return parse_uuid(key)
    except ValueError:
        return system_assistant_id(str(key))
