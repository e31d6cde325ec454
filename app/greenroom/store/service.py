"""The rules of the store: namespaces, lives of items, and who searches by meaning."""

from collections.abc import Sequence
from typing import Any

import orjson

from greenroom import encryption, wire
from greenroom.database.engine import Database
from greenroom.database.pages import AnyRow
from greenroom.errors import BadRequest, InvalidRequest
from greenroom.graphs.client import GraphsClient
from greenroom.store import queries
from greenroom.store.filters import Condition, read_filter
from greenroom.store.schemas import ItemDelete, ItemPut, ItemQuery, ItemSearch, NamespaceSearch
from greenroom.store.sealed import Scan, from_stored
from greenroom.store.settings import StoreSettings

Json = dict[str, Any]
RESERVED_ROOT = "langgraph"
MAX_NAME_BYTES = 2000
"""Namespace and key together: they and a path must fit an index entry (2704 bytes)."""
MAX_PATH_BYTES = 500
MAX_LABELS = 100
MAX_ITEMS = 10_000
"""Items in one answer. The reference has no limit, and clients ask for a million to mean all."""


def put(database: Database, graphs: GraphsClient, settings: StoreSettings, body: ItemPut) -> None:
    """Write or replace an item.

    Raises:
        BadRequest: the namespace is empty or reserved.
        InvalidRequest: a label, a name that is too long, or paths that cannot be embedded.
        GraphFault: the embedding function failed; GraphsUnavailable and GraphTimeout likewise.
    """
    prefix = _item_prefix(body.namespace)
    if body.namespace[0] == RESERVED_ROOT:
        raise BadRequest(
            f'Root label for namespace cannot be "{RESERVED_ROOT}". Got: {body.namespace}'
        )
    if len(f"{prefix}{body.key}".encode()) > MAX_NAME_BYTES:
        raise InvalidRequest(f"namespace and key are longer than {MAX_NAME_BYTES} bytes together")
    if any(len(path.encode()) > MAX_PATH_BYTES for path in body.index or ()):
        raise InvalidRequest(f"a path in index is longer than {MAX_PATH_BYTES} bytes")
    ttl = body.ttl if "ttl" in body.model_fields_set else settings.default_ttl_minutes
    if settings.index is not None and body.index is not False:
        # A path given twice would write one vector twice.
        paths = None if body.index is None else list(dict.fromkeys(body.index))
        graphs.put_item(body.namespace, body.key, body.value, index=paths, ttl_minutes=ttl)
        return
    value = wire.dumps(body.value)
    if settings.index is None:
        with database.statement() as connection:
            queries.put_item(connection, prefix, body.key, value, ttl_minutes=ttl)
        return
    with database.transaction() as connection:
        queries.put_item(connection, prefix, body.key, value, ttl_minutes=ttl)
        queries.forget_vectors(connection, prefix, body.key)


def find(database: Database, settings: StoreSettings, query: ItemQuery, key: str) -> Json | None:
    """Read an item, or None.

    Raises:
        InvalidRequest: an empty namespace or label.
    """
    check_labels(query.namespace.split("."))
    refresh = settings.refresh_on_read if query.refresh_ttl is None else query.refresh_ttl
    with database.statement() as connection:
        found = queries.find_item(connection, query.namespace, key, refresh=refresh)
    return None if found is None else _item(found, from_stored(found.value))


def delete(database: Database, body: ItemDelete) -> None:
    """Remove an item; it need not be there.

    Raises:
        BadRequest: the namespace is empty.
        InvalidRequest: a label.
    """
    prefix = _item_prefix(body.namespace)
    with database.statement() as connection:
        queries.delete_item(connection, prefix, body.key)


def search(
    database: Database, graphs: GraphsClient, settings: StoreSettings, body: ItemSearch
) -> Json | bytes:
    """Find items: the nearest first if there is a query and an index, else the last changed.

    Raises:
        BadRequest: the filter cannot be understood, more than MAX_ITEMS match, or more than
            MAX_SCANNED would have to be decrypted.
        InvalidRequest: a label.
        GraphFault: the embedding function failed; GraphsUnavailable and GraphTimeout likewise.
    """
    labels = body.namespace_prefix or []
    check_labels(labels)
    conditions = read_filter(body.filter or {})
    refresh = settings.refresh_on_read if body.refresh_ttl is None else body.refresh_ttl
    if body.query and settings.index is not None:
        if body.offset + body.limit > MAX_ITEMS:
            raise BadRequest(f"a search by meaning reaches {MAX_ITEMS} items at most")
        return graphs.search_items(
            labels,
            body.query,
            filter=body.filter,
            limit=body.limit,
            offset=body.offset,
            refresh=refresh,
        )
    items = _find_items(database, labels, conditions, body, refresh=refresh)
    if len(items) > MAX_ITEMS:
        raise BadRequest(f"more than {MAX_ITEMS} items match: ask for them in pages")
    return {"items": [{**item, "score": None} for item in items]}


def _find_items(
    database: Database,
    labels: Sequence[str],
    conditions: Sequence[Condition],
    body: ItemSearch,
    *,
    refresh: bool,
) -> list[Json]:
    limit = min(body.limit, MAX_ITEMS + 1)
    if conditions and encryption.is_on():
        scan = Scan(conditions, limit=limit, offset=body.offset)
        with database.transaction() as connection:
            queries.scan_items(connection, labels, scan, refresh=refresh)
        return [_item(row, value) for row, value in scan.found]
    with database.statement() as connection:
        rows = queries.search_items(
            connection, labels, conditions, limit=limit, offset=body.offset, refresh=refresh
        )
    return [_item(row, from_stored(row.value)) for row in rows]


def list_namespaces(database: Database, body: NamespaceSearch) -> list[list[str]]:
    """List namespaces that hold items.

    Raises:
        BadRequest: more than MAX_ITEMS match.
        InvalidRequest: a label.
    """
    prefix, suffix = body.prefix or [], body.suffix or []
    check_labels(prefix)
    check_labels(suffix)
    with database.statement() as connection:
        found = queries.list_namespaces(
            connection,
            prefix=prefix,
            suffix=suffix,
            max_depth=body.max_depth,
            limit=min(body.limit, MAX_ITEMS + 1),
            offset=body.offset,
        )
    if len(found) > MAX_ITEMS:
        raise BadRequest(f"more than {MAX_ITEMS} namespaces match: ask for them in pages")
    return found


def check_labels(labels: Sequence[str]) -> None:
    """Refuse what would make two namespaces one.

    Raises:
        InvalidRequest: a label is empty or has a dot, or there are too many.
    """
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"a namespace has at most {MAX_LABELS} labels")
    for label in labels:
        if not label or "." in label:
            raise InvalidRequest(
                f"Namespace label '{label}' must be a non-empty string without periods"
            )


def _item_prefix(namespace: Sequence[str]) -> str:
    if not namespace:
        raise BadRequest("Namespace cannot be empty.")
    check_labels(namespace)
    return ".".join(namespace)


def _item(row: AnyRow, value: bytes) -> Json:
    return {
        "namespace": row.prefix.split("."),
        "key": row.key,
        "value": orjson.Fragment(value),
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
