"""The rules of assistants: versions, defaults, and what a filter means."""

import re
from collections.abc import Collection
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection

from greenroom.assistants import queries
from greenroom.assistants.mirror import mirror, mirror_change
from greenroom.assistants.schemas import (
    AssistantCount,
    AssistantCreate,
    AssistantPatch,
    AssistantSearch,
    VersionsSearch,
)
from greenroom.config import Project
from greenroom.contract.fields import parse_uuid
from greenroom.database.engine import Database
from greenroom.database.pages import AnyRow, Page
from greenroom.database.scope import Scope
from greenroom.errors import Conflict, GraphNotFound, InvalidRequest, NotFound
from greenroom.threads import queries as thread_queries

Json = dict[str, Any]
MAX_VERSION = 2**31 - 1
XRAY_DEPTH = re.compile(r"[1-9][0-9]{0,8}")
ALL_FIELDS = tuple(column.name for column in queries.COLUMNS)


def ensure_system_assistants(database: Database, project: Project) -> None:
    """Give every graph of langgraph.json its own assistant; again and from everywhere at once."""
    for graph_id, graph in sorted(project.graphs.items()):
        with database.statement() as connection:
            queries.ensure_system_assistant(connection, graph_id, graph.description)


def create(
    database: Database, graphs: Collection[str], body: AssistantCreate, scope: Scope = None
) -> Json:
    """Make an assistant.

    Raises:
        GraphNotFound: langgraph.json has no such graph.
        BadRequest: both config.configurable and context are given.
        Conflict: the id is taken, and the request does not take what is there.
    """
    _require_graph(body.graph_id, graphs)
    config, context = mirror(body.config, body.context)
    assistant_id = body.assistant_id or uuid4()
    fields = {
        "assistant_id": assistant_id,
        "graph_id": body.graph_id,
        "name": body.name,
        "description": body.description,
        "config": config,
        "context": context,
        "metadata": body.metadata,
    }
    with database.statement() as connection:
        made = queries.create_assistant(connection, fields)
        if made is None and body.if_exists == "do_nothing":
            made = queries.find_assistant(connection, assistant_id, scope)
    if made is None:
        raise Conflict(f"Assistant {assistant_id} already exists")
    return _object(made)


def get(database: Database, assistant_id: UUID, scope: Scope = None) -> Json:
    """Read an assistant.

    Raises:
        NotFound: no such assistant.
    """
    with database.statement() as connection:
        found = queries.find_assistant(connection, assistant_id, scope)
    if found is None:
        raise _missing(assistant_id)
    return _object(found)


def patch(
    database: Database,
    graphs: Collection[str],
    assistant_id: UUID,
    body: AssistantPatch,
    scope: Scope = None,
) -> Json:
    """Write the next version: metadata is merged at the top level, the rest replaced.

    Raises:
        NotFound: no such assistant, or no such graph.
        BadRequest: both config.configurable and context are given.
    """
    if body.graph_id is not None:
        _require_graph(body.graph_id, graphs)
    with database.transaction() as connection:
        stored = queries.lock_assistant(connection, assistant_id, scope)
        if stored is None:
            raise _missing(assistant_id)
        config, context = mirror_change(stored.config, stored.context, body.config, body.context)
        changes = body.model_dump(include={"graph_id", "name", "description"}, exclude_none=True)
        changes |= {
            "config": config,
            "context": context,
            "metadata": {**stored.metadata, **(body.metadata or {})},
        }
        return _object(queries.add_version(connection, assistant_id, changes))


def delete(
    database: Database,
    assistant_id: UUID,
    *,
    with_threads: bool,
    scope: Scope = None,
    threads_scope: Scope = None,
) -> list[UUID]:
    """Remove an assistant, and on request the threads on which it ran last.

    Args:
        threads_scope: which of the threads go.
    Returns:
        The runs that were running on those threads: tell their workers.
    Raises:
        NotFound: no such assistant.
    """
    with database.transaction() as connection:
        if not queries.delete_assistant(connection, assistant_id, scope):
            raise NotFound(f"Assistant with ID {assistant_id} not found")
        if not with_threads:
            return []
        thread_ids = thread_queries.list_threads_of_assistant(connection, assistant_id)
        deleted = thread_queries.delete_threads(connection, thread_ids, threads_scope)
        return deleted.running_run_ids


def search(
    database: Database, graphs: Collection[str], body: AssistantSearch, scope: Scope = None
) -> tuple[list[Json], Page]:
    """Find assistants, and tell the page that they are.

    Raises:
        GraphNotFound: langgraph.json has no such graph.
    """
    if body.graph_id is not None:
        _require_graph(body.graph_id, graphs)
    with database.statement() as connection:
        page = queries.search_assistants(
            connection,
            _conditions(body, scope),
            fields=frozenset(body.select or ALL_FIELDS),
            sort_by=body.sort_by,
            is_descending=body.sort_order == "desc",
            limit=body.limit,
            offset=body.offset,
        )
    return [_object(row) for row in page.rows], page


def count(database: Database, body: AssistantCount, scope: Scope = None) -> int:
    """Count assistants."""
    with database.statement() as connection:
        return queries.count_assistants(connection, _conditions(body, scope))


def list_versions(
    database: Database, assistant_id: UUID, body: VersionsSearch, scope: Scope = None
) -> list[Json]:
    """List an assistant's versions, newest first.

    Raises:
        NotFound: no such assistant.
    """
    with database.statement() as connection:
        rows = queries.list_versions(
            connection,
            assistant_id,
            metadata=body.metadata,
            limit=body.limit,
            offset=body.offset,
            scope=scope,
        )
        if not rows and not queries.assistant_exists(connection, assistant_id, scope):
            raise _missing(assistant_id)
    return [_object(row) for row in rows]


def restore_version(
    database: Database, assistant_id: UUID, version: int | None, scope: Scope = None
) -> Json:
    """Go back to an earlier version; the versions after it stay.

    Raises:
        NotFound: no such version, or no such assistant.
    """
    restored = None
    if version is not None and 0 < version <= MAX_VERSION:
        with database.statement() as connection:
            restored = queries.restore_version(connection, assistant_id, version, scope)
    if restored is None:
        raise NotFound(f"Version {version} not found for assistant {assistant_id}")
    return _object(restored)


def resolve(
    connection: Connection, graphs: Collection[str], key: str | UUID, scope: Scope = None
) -> queries.ForRun:
    """Find what an id or a graph id means: assistant_id, graph_id, config, context, metadata.

    Raises:
        NotFound: no such assistant.
        InvalidRequest: neither a uuid nor the id of a graph.
    """
    if key not in graphs:
        try:
            key = parse_uuid(key)
        except ValueError as error:
            raise InvalidRequest(
                "Invalid assistant ID: must be a UUID or the id of a graph"
            ) from error
    found = queries.find_for_run(connection, key, scope, is_shared=False)
    if found is None:
        raise _missing(key)
    return found


def read_xray(text: str) -> bool | int:
    """Read how deep a drawing goes: all levels, none, or so many.

    Raises:
        InvalidRequest: anything else.
    """
    flag = {"true": True, "false": False}.get(text.lower())
    if flag is not None:
        return flag
    if XRAY_DEPTH.fullmatch(text):
        return int(text)
    raise InvalidRequest("Invalid xray value: must be true, false or a number from 1")


def _require_graph(graph_id: str, graphs: Collection[str]) -> None:
    if graph_id not in graphs:
        raise GraphNotFound(graph_id, list(graphs))


def _missing(key: str | UUID) -> NotFound:
    return NotFound(f"Assistant {key} not found")


def _conditions(body: AssistantCount, scope: Scope) -> list[Any]:
    return queries.conditions(
        metadata=body.metadata, graph_id=body.graph_id, name=body.name, scope=scope
    )


def _object(row: AnyRow) -> Json:
    return dict(row._mapping)  # noqa: SLF001 (SQLAlchemy's public name)
