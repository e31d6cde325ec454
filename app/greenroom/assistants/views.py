"""HTTP of assistants (http.md, section 1)."""

from typing import Any
from uuid import UUID

from flask import Blueprint

from greenroom.assistants import service
from greenroom.assistants.schemas import (
    Assistant,
    AssistantCount,
    AssistantCreate,
    AssistantPatch,
    AssistantSchemas,
    AssistantSearch,
    AssistantVersion,
    DeleteQuery,
    Drawing,
    DrawQuery,
    GraphSchemas,
    SubgraphsQuery,
    VersionChange,
    VersionsSearch,
)
from greenroom.auth.questions import ask
from greenroom.contract.endpoint import Reply, endpoint
from greenroom.contract.fields import Object
from greenroom.contract.guard import scope
from greenroom.contract.services import services

assistants = Blueprint("assistants", __name__)

CREATE = ask(
    "assistants",
    "create",
    *("assistant_id", "graph_id", "config", "context", "metadata", "if_exists", "name"),
    changes=("metadata",),
)
READ = ask("assistants", "read")
UPDATE = ask(
    "assistants",
    "update",
    *("graph_id", "config", "context", "metadata", "name"),
    changes=("metadata",),
)
RESTORE = ask("assistants", "update", "version")
DELETE = ask("assistants", "delete") + ask(
    "threads", "delete", when=lambda arguments: arguments["query"].delete_threads, thread_id=None
)
SEARCH = ask(
    "assistants", "search", "graph_id", "metadata", "limit", "offset", changes=("metadata",)
)


@assistants.post("/assistants")
@endpoint(access=CREATE, body=AssistantCreate, returns=Assistant)
def create_assistant(body: AssistantCreate) -> Object:
    """Create an assistant."""
    graphs = services().config.project.graphs
    return service.create(services().database, graphs, body, scope("assistants"))


@assistants.post("/assistants/search")
@endpoint(access=SEARCH, body=AssistantSearch, returns=list[Assistant])
def search_assistants(body: AssistantSearch) -> Reply:
    """Search assistants, newest first unless asked otherwise."""
    graphs = services().config.project.graphs
    found, page = service.search(services().database, graphs, body, scope("assistants"))
    return Reply(found, headers=page.headers)


@assistants.post("/assistants/count")
@endpoint(access=SEARCH, body=AssistantCount, returns=int)
def count_assistants(body: AssistantCount) -> int:
    """Count assistants."""
    return service.count(services().database, body, scope("assistants"))


@assistants.get("/assistants/<assistant_id>")
@endpoint(access=READ, returns=Assistant)
def get_assistant(assistant_id: UUID) -> Object:
    """Get an assistant."""
    return service.get(services().database, assistant_id, scope("assistants"))


@assistants.patch("/assistants/<assistant_id>")
@endpoint(access=UPDATE, body=AssistantPatch, returns=Assistant)
def patch_assistant(assistant_id: UUID, body: AssistantPatch) -> Object:
    """Write an assistant's next version."""
    graphs = services().config.project.graphs
    return service.patch(services().database, graphs, assistant_id, body, scope("assistants"))


@assistants.delete("/assistants/<assistant_id>")
@endpoint(access=DELETE, query=DeleteQuery, status=204)
def delete_assistant(assistant_id: UUID, query: DeleteQuery) -> None:
    """Delete an assistant and, on request, its threads."""
    running = service.delete(
        services().database,
        assistant_id,
        with_threads=query.delete_threads,
        scope=scope("assistants"),
        threads_scope=scope("threads"),
    )
    services().signals.cancel(running, "delete")


@assistants.post("/assistants/<assistant_id>/versions")
@endpoint(access=READ, body=VersionsSearch, returns=list[AssistantVersion])
def list_assistant_versions(assistant_id: UUID, body: VersionsSearch) -> list[Object]:
    """List an assistant's versions, newest first."""
    return service.list_versions(services().database, assistant_id, body, scope("assistants"))


@assistants.post("/assistants/<assistant_id>/latest")
@endpoint(access=RESTORE, body=VersionChange, returns=Assistant)
def set_latest_assistant_version(assistant_id: UUID, body: VersionChange) -> Object:
    """Make an earlier version the current one."""
    database = services().database
    return service.restore_version(database, assistant_id, body.version, scope("assistants"))


# Not `<assistant_id>`: here alone a graph id will do, too.
@assistants.get("/assistants/<assistant_or_graph_id>/graph")
@endpoint(access=READ, query=DrawQuery, returns=Drawing)
def draw_assistant_graph(assistant_or_graph_id: str, query: DrawQuery) -> Reply:
    """Draw an assistant's graph: its nodes and edges."""
    xray = service.read_xray(query.xray)
    found = _resolve(assistant_or_graph_id)
    return Reply(services().graphs.draw(found.graph_id, config=found.config, xray=xray))


@assistants.get("/assistants/<assistant_id>/schemas")
@endpoint(access=READ, returns=AssistantSchemas)
def get_assistant_schemas(assistant_id: UUID) -> Reply:
    """Get the JSON schemas of an assistant's graph."""
    found = _resolve(assistant_id)
    return Reply(services().graphs.schemas(found.graph_id, config=found.config))


@assistants.get("/assistants/<assistant_id>/subgraphs")
@endpoint(access=READ, query=SubgraphsQuery, returns=dict[str, GraphSchemas])
def list_assistant_subgraphs(assistant_id: UUID, query: SubgraphsQuery) -> Reply:
    """List the nested graphs with their schemas."""
    found = _resolve(assistant_id)
    return Reply(
        services().graphs.subgraphs(found.graph_id, config=found.config, recurse=query.recurse)
    )


@assistants.get("/assistants/<assistant_id>/subgraphs/<namespace>")
@endpoint(access=READ, query=SubgraphsQuery, returns=dict[str, GraphSchemas])
def get_assistant_subgraph(assistant_id: UUID, namespace: str, query: SubgraphsQuery) -> Reply:
    """Get one nested graph's schemas; an empty object when there is none of that name."""
    found = _resolve(assistant_id)
    return Reply(
        services().graphs.subgraphs(
            found.graph_id, config=found.config, namespace=namespace, recurse=query.recurse
        )
    )


def _resolve(key: str | UUID) -> Any:
    with services().database.statement() as connection:
        graphs = services().config.project.graphs
        return service.resolve(connection, graphs, key, scope("assistants"))
