"""Store items on the wire (http.md, section 6)."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from greenroom import wire
from greenroom.contract.fields import Flag, Maybe, Object, Offset, QueryModel, WireModel
from greenroom.store.settings import MAX_MINUTES

MAX_PATHS = 100
Text = Annotated[str, BeforeValidator(wire.clean)]
"""Of a query string, which has not been cleaned as bodies are."""
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Minutes = Annotated[float, Field(gt=0, le=MAX_MINUTES)]


class Item(WireModel):
    """An item as clients read it."""

    namespace: list[str]
    key: str
    value: Object
    created_at: datetime
    updated_at: datetime


class FoundItem(Item):
    """An item of a search."""

    score: float | None
    """How near it is to the query; None when nothing was compared by meaning."""


class FoundItems(WireModel):
    """A page of a search."""

    items: list[FoundItem]


class Namespaces(WireModel):
    """A page of namespaces."""

    namespaces: list[list[str]]


class ItemPut(WireModel):
    """An item to write."""

    namespace: list[str]
    key: str
    value: Object
    index: Literal[False] | Annotated[list[str], Field(max_length=MAX_PATHS)] | None = None
    """Paths to embed instead of the configured ones; False embeds nothing."""
    ttl: Minutes | None = None
    """Absent takes the configured one; null keeps the item for good."""


class ItemQuery(QueryModel, json_schema_extra={"required": ["namespace", "key"]}):
    """Which item. Without a key the answer is a 400, as on the reference."""

    namespace: Text
    """The labels, joined by dots."""
    key: Text | None = None
    refresh_ttl: Flag | None = None
    """Whether reading prolongs the item's life; None takes the configured rule."""


class ItemDelete(WireModel):
    """Which item."""

    namespace: list[str]
    key: str


class ItemSearch(WireModel):
    """Which items."""

    namespace_prefix: list[str] | None = None
    """The labels that an item's namespace begins with; None and empty mean all."""
    filter: Object | None = None
    """Fields of the value, each with what it equals or with `$eq`, `$ne`, `$gt`, `$gte`, `$lt`,
    `$lte`."""
    limit: Count = 10
    offset: Offset = 0
    query: str | None = None
    """What the items shall be about; does nothing without `store.index`."""
    refresh_ttl: bool | None = None


class NamespaceSearch(WireModel):
    """Which namespaces; `*` stands for any one label."""

    prefix: Maybe[list[str]] = None
    suffix: Maybe[list[str]] = None
    max_depth: Maybe[Annotated[int, Field(ge=1, le=2**31 - 1)]] = None
    limit: Count = 100
    offset: Offset = 0
