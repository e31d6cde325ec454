"""HTTP of the store (http.md, section 6)."""

from flask import Blueprint, current_app
from flask.blueprints import BlueprintSetupState

from greenroom.auth.questions import ask_store
from greenroom.contract.endpoint import Reply, endpoint
from greenroom.contract.fields import Object
from greenroom.contract.services import services
from greenroom.store import service
from greenroom.store.schemas import (
    FoundItems,
    Item,
    ItemDelete,
    ItemPut,
    ItemQuery,
    ItemSearch,
    Namespaces,
    NamespaceSearch,
)
from greenroom.store.settings import StoreSettings, read_settings

SETTINGS = "greenroom.store"
store = Blueprint("store", __name__)

PUT = ask_store("put", "key", "value", "index", "ttl")
GET = ask_store("get", "key", source="query")
DELETE = ask_store("delete", "key")
SEARCH = ask_store("search", "filter", "limit", "offset", "query", namespace="namespace_prefix")
LIST = ask_store("list_namespaces", "suffix", "max_depth", "limit", "offset", namespace="prefix")


@store.record
def read_settings_once(state: BlueprintSetupState) -> None:
    """Refuse a wrong `store` block when the process starts, not at the first request."""
    project = state.app.extensions["greenroom"].config.project
    state.app.extensions[SETTINGS] = read_settings(project)


@store.put("/store/items")
@endpoint(access=PUT, body=ItemPut, status=204)
def put_item(body: ItemPut) -> None:
    """Write or replace an item."""
    service.put(services().database, services().graphs, _settings(), body)


@store.get("/store/items")
@endpoint(access=GET, query=ItemQuery, returns=Item | None)
def get_item(query: ItemQuery) -> Reply | Object | None:
    """Get an item; null when there is none."""
    if query.key is None:
        # Both words: the reference says "error" here, every other answer says "detail".
        sentence = "Key is required"
        return Reply({"detail": sentence, "error": sentence}, 400)
    return service.find(services().database, _settings(), query, query.key)


@store.delete("/store/items")
@endpoint(access=DELETE, body=ItemDelete, status=204)
def delete_item(body: ItemDelete) -> None:
    """Delete an item."""
    service.delete(services().database, body)


@store.post("/store/items/search")
@endpoint(access=SEARCH, body=ItemSearch, returns=FoundItems)
def search_items(body: ItemSearch) -> Reply:
    """Search items below a namespace."""
    return Reply(service.search(services().database, services().graphs, _settings(), body))


@store.post("/store/namespaces")
@endpoint(access=LIST, body=NamespaceSearch, returns=Namespaces)
def list_namespaces(body: NamespaceSearch) -> Object:
    """List the namespaces that hold items."""
    return {"namespaces": service.list_namespaces(services().database, body)}


def _settings() -> StoreSettings:
    found: StoreSettings = current_app.extensions[SETTINGS]
    return found
