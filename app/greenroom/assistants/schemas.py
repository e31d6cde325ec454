"""Assistants on the wire (http.md, section 1)."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, WithJsonSchema

from greenroom.contract.fields import Flag, Id, Limit, Maybe, Object, Offset, QueryModel, WireModel

AssistantField = Literal[
    "assistant_id",
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "created_at",
    "updated_at",
    "metadata",
    "version",
]


Xray = Annotated[
    str, WithJsonSchema({"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1}]})
]


class Assistant(WireModel):
    """An assistant as clients read it."""

    assistant_id: UUID
    graph_id: str
    config: Object
    context: Object
    metadata: Object
    name: str
    created_at: datetime
    updated_at: datetime
    version: int
    description: str | None


class AssistantVersion(WireModel):
    """What an assistant was when it had that version."""

    assistant_id: UUID
    version: int
    graph_id: str
    config: Object
    context: Object
    metadata: Object
    created_at: datetime
    name: str
    description: str | None


class AssistantCreate(WireModel):
    """A new assistant."""

    graph_id: str
    assistant_id: Maybe[Id] = None
    config: Object = Field(default_factory=dict)
    context: Object = Field(default_factory=dict)
    metadata: Object = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"
    name: str = "Untitled"
    description: str | None = None


class AssistantPatch(WireModel):
    """What changes in the next version; None is left as it was."""

    graph_id: Maybe[str] = None
    config: Maybe[Object] = None
    context: Maybe[Object] = None
    metadata: Maybe[Object] = None
    name: Maybe[str] = None
    description: Maybe[str] = None


class AssistantCount(WireModel):
    """Which assistants; None does not filter."""

    metadata: Maybe[Object] = None
    """What the assistant's metadata must contain."""
    graph_id: Maybe[str] = None
    name: Maybe[str] = None
    """A part of the name, in any case of letters."""


class AssistantSearch(AssistantCount):
    """Which assistants, in which order, and what of them."""

    limit: Limit = 10
    offset: Offset = 0
    sort_by: Literal["assistant_id", "created_at", "updated_at", "name", "graph_id"] = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: Maybe[list[AssistantField]] = None
    """Answer with these fields alone."""


class VersionsSearch(WireModel):
    """Which versions of an assistant."""

    metadata: Maybe[Object] = None
    limit: Limit = 10
    offset: Offset = 0


class VersionChange(WireModel):
    """The version to go back to. Without one the answer is a 404, as on the reference."""

    version: int | None = None


class GraphSchemas(WireModel):
    """The JSON schemas of a graph; null for what it does not declare."""

    input_schema: Object | None
    output_schema: Object | None
    state_schema: Object | None
    config_schema: Object | None
    context_schema: Object | None


class AssistantSchemas(GraphSchemas):
    """The JSON schemas of an assistant's graph."""

    graph_id: str


class Drawing(WireModel):
    """A graph as nodes and edges."""

    nodes: list[Object]
    edges: list[Object]


class DeleteQuery(QueryModel):
    """What goes with the assistant."""

    delete_threads: Flag = False
    """Delete the threads that ran it, too."""


class DrawQuery(QueryModel):
    """How deep a drawing opens nested graphs."""

    xray: Xray = Field("false", json_schema_extra={"default": False})
    """Whether nested graphs are opened: true, false, or how many levels of them."""


class SubgraphsQuery(QueryModel):
    """How deep to look for nested graphs."""

    recurse: Flag = False
    """List nested graphs of nested graphs, too."""
