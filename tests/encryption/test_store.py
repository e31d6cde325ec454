"""Store items whose values only this server can read: from the API and from graphs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment
from keyed import FIRST, SECOND, SECRET, deploy, files_with, serve, stop

from greenroom import wire

MEANING = Path(__file__).parents[1] / "store" / "project" / "langgraph.json"
SPACE = ["tests", "sealed"]


@pytest.fixture
def remembering() -> Iterator[Deployment]:
    """Engines for a project whose graph uses the store, with an index."""
    yield from deploy(MEANING)


def put(client: httpx.Client, key: str, **value: Any) -> None:
    body = {"namespace": SPACE, "key": key, "value": {"text": SECRET, **value}}
    response = client.put("/store/items", json=body)
    assert response.status_code == 204, response.text


def keys(client: httpx.Client, **query: Any) -> list[str]:
    response = client.post("/store/items/search", json={"namespace_prefix": SPACE, **query})
    assert response.status_code == 200, response.text
    return [item["key"] for item in response.json()["items"]]


def use(client: httpx.Client, **given: Any) -> Any:
    body = {"assistant_id": "memory", "input": {"namespace": SPACE, **given}}
    response = client.post("/runs/wait", json=body)
    assert response.status_code == 200, response.text
    return response.json().get("found", response.json())


def kept(client: httpx.Client, key: str) -> httpx.Response:
    return client.get("/store/items", params={"namespace": ".".join(SPACE), "key": key})


def test_no_value_can_be_read_from_the_disk_and_all_are_found(remembering: Deployment) -> None:
    """By filters and by meaning, from the API and from a graph; without a key it is all there."""
    with serve(remembering, LANGGRAPH_AES_KEY=FIRST) as client:
        put(client, "cat", n=1, about="cat")
        put(client, "stock", n=2)
        value = {"text": f"cat {SECRET}", "n": 3, "odd": "\x00"}
        use(client, put={"key": "run", "value": value, "ttl": 0.5})
        assert files_with(remembering, SECRET) == []
        assert kept(client, "cat").json()["value"] == {"text": SECRET, "n": 1, "about": "cat"}
        assert kept(client, "run").json()["value"] == {**value, "odd": "\N{REPLACEMENT CHARACTER}"}
        assert keys(client) == ["run", "stock", "cat"]
        assert keys(client, filter={"n": {"$gte": 2}}) == ["run", "stock"]
        assert keys(client, filter={"n": {"$gte": 2}}, limit=1, offset=1) == ["stock"]
        assert keys(client, query="cat", filter={"n": {"$gte": 2}}) == ["run", "stock"]
        assert keys(client, query="cat", filter={"n": {"$gte": 2}}, limit=1) == ["run"]
        found = use(client, search={"filter": {"n": {"$lt": 3}}, "limit": 1})
        assert found == [["stock", {"text": SECRET, "n": 2}, None]]
        ((key, _, score),) = use(client, search={"query": "cat", "filter": {"n": 3}})
        assert key == "run" and score > 0
        left = "SELECT extract(epoch FROM expires_at - updated_at) FROM store WHERE key = :key"
        assert remembering.value(left, key="run") >= 30
    stop(remembering)
    with serve(remembering) as client:
        put(client, "plain", n=5)
        assert files_with(remembering, SECRET)


def test_items_of_all_times_are_read_and_searched_together(remembering: Deployment) -> None:
    """From before the key, of an older key, of this one; a key that is missing is told of."""
    with serve(remembering) as client:
        put(client, "plain", n=1)
    stop(remembering)
    with serve(remembering, LANGGRAPH_AES_KEY=FIRST) as client:
        put(client, "first", n=2)
    stop(remembering)
    rotated = {"LANGGRAPH_AES_KEY": SECOND, "GREENROOM_AES_OLD_KEYS": FIRST}
    with serve(remembering, **rotated) as client:
        put(client, "second", n=3)
        assert keys(client, filter={"n": {"$gt": 0}}) == ["second", "first", "plain"]
        assert keys(client, filter={"n": {"$gt": 0}}, query="cat", limit=3) != []
        found = use(client, search={"filter": {"text": SECRET}})
        assert [key for key, _, _ in found] == ["second", "first", "plain"]
    stop(remembering)
    with serve(remembering, LANGGRAPH_AES_KEY=SECOND) as client:
        assert kept(client, "second").json()["value"]["n"] == 3
        assert "GREENROOM_AES_OLD_KEYS" in kept(client, "first").json()["detail"]
        assert kept(client, "first").status_code == 500
        search = {"namespace_prefix": SPACE, "filter": {"n": 2}}
        refused = client.post("/store/items/search", json=search)
        assert refused.status_code == 500 and "another key" in refused.json()["detail"]
        assert use(client, search={"filter": {"n": 3}, "limit": 1})[0][0] == "second"
    stop(remembering)
    with serve(remembering) as client:
        assert kept(client, "plain").json()["value"]["n"] == 1
        assert kept(client, "second").status_code == 500
        assert keys(client, filter={"n": 1}) == ["plain"]


def test_many_items_are_read_page_by_page(remembering: Deployment) -> None:
    """The filter meets one of more than a page; the page before it is left out."""
    with serve(remembering, LANGGRAPH_AES_KEY=FIRST) as client:
        put(client, "needle", n=-1)
        fill = """
            INSERT INTO store (prefix, key, value)
            SELECT :prefix, 'hay' || n, jsonb_build_object('n', n) FROM generate_series(1, 1200) n
            RETURNING 1
        """
        assert remembering.value(fill, prefix=".".join(SPACE)) == 1
        assert keys(client, filter={"n": {"$lt": 0}}) == ["needle"]
        assert use(client, search={"filter": {"n": {"$lt": 0}}})[0][0] == "needle"
        assert len(keys(client, filter={"n": {"$gt": 0}}, limit=2000, offset=700)) == 500
        stored = remembering.value("SELECT CAST(value AS text) FROM store WHERE key = 'needle'")
        assert wire.loads(stored).startswith("greenroom:sealed:")
