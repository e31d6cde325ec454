"""Search by meaning, through real web, graphs and worker processes."""

from typing import Any

import httpx
import pytest
from deployment import Deployment, until
from sqlalchemy import text


def put(client: httpx.Client, space: list[str], key: str, value: Any, **more: Any) -> None:
    body = {"namespace": space, "key": key, "value": value, **more}
    response = client.put("/store/items", json=body)
    assert response.status_code == 204, response.text


def search(client: httpx.Client, space: list[str], **query: Any) -> list[Any]:
    response = client.post("/store/items/search", json={"namespace_prefix": space, **query})
    assert response.status_code == 200, response.text
    found: list[Any] = response.json()["items"]
    return found


def keys(client: httpx.Client, space: list[str], **query: Any) -> list[str]:
    return [item["key"] for item in search(client, space, **query)]


def run(client: httpx.Client, space: list[str], **given: Any) -> list[Any]:
    body = {"assistant_id": "memory", "input": {"namespace": space, **given}}
    response = client.post("/runs/wait", json=body)
    assert response.status_code == 200, response.text
    found: list[Any] = response.json()["found"]
    return found


def test_the_nearest_comes_first(client: httpx.Client, space: list[str]) -> None:
    """With a score, and all that items have; filters, prefixes and pages hold as elsewhere."""
    put(client, space, "stocks", {"text": "stock stock", "n": 1})
    put(client, space, "cats", {"text": "cat cat", "n": 2})
    put(client, [*space, "below"], "both", {"text": "cat stock", "n": 10})
    put(client, [space[0], f"{space[1]}x"], "elsewhere", {"text": "cat"})
    first, second, third = search(client, space, query="a cat")
    assert [first["key"], second["key"], third["key"]] == ["cats", "both", "stocks"]
    assert first["score"] > second["score"] > third["score"]
    assert first["namespace"] == space and first["value"] == {"text": "cat cat", "n": 2}
    assert first["created_at"].endswith("+00:00") and first["updated_at"].endswith("+00:00")
    assert keys(client, space, query="cat", filter={"n": {"$gt": 9}}) == ["both"]
    assert keys(client, space, query="cat", filter={"n": {"$in": [1, 2]}}) == ["cats", "stocks"]
    assert keys(client, space, query="cat", limit=1, offset=2) == ["stocks"]
    assert {item["score"] for item in search(client, space)} == {None}


def test_pages_reach_every_item(client: httpx.Client, space: list[str]) -> None:
    """Langgraph alone reads too few vectors for a later page."""
    for number in range(12):
        put(client, space, f"{number:02}", {"text": "cat " * (number + 1) + "rain"})
    pages = [keys(client, space, query="cat", limit=2, offset=offset) for offset in range(0, 12, 2)]
    assert sorted(key for page in pages for key in page) == [f"{n:02}" for n in range(12)]


def test_an_item_is_found_by_its_present_value_only(client: httpx.Client, space: list[str]) -> None:
    """A put that embeds less, or nothing, leaves no vector of the value before."""
    put(client, space, "k", {"text": "cat"})
    put(client, space, "k", {"text": "cat"}, index=False)
    assert keys(client, space, query="cat") == []
    assert keys(client, space) == ["k"]
    put(client, space, "k", {"a": ["cat", "rain"]}, index=["a[*]"])
    assert keys(client, space, query="rain") == ["k"]
    put(client, space, "k", {"a": ["cat"]}, index=["a[*]"])
    (item,) = search(client, space, query="rain")
    assert item["score"] < 0.1
    client.request("DELETE", "/store/items", json={"namespace": space, "key": "k"})
    assert keys(client, space, query="cat") == []


def test_graphs_and_the_api_search_each_others_items(
    client: httpx.Client, space: list[str]
) -> None:
    """A worker embeds what a graph puts, the graphs process what the API puts."""
    put(client, space, "api", {"text": "rain"})
    found = run(
        client,
        space,
        put={"key": "graph", "value": {"text": "cat"}},
        search={"query": "rain", "filter": {"text": {"$in": ["rain", "cat"]}}},
    )
    assert [key for key, _, _ in found] == ["api", "graph"]
    assert found[0][2] > found[1][2]
    assert keys(client, space, query="cat") == ["graph", "api"]


def test_items_of_the_api_and_of_graphs_get_the_configured_life(
    client: httpx.Client, indexed: Deployment, space: list[str]
) -> None:
    """`store.ttl.default_ttl`, embedded or not."""
    put(client, space, "embedded", {"text": "cat"})
    put(client, space, "plain", {"text": "cat"}, index=False)
    put(client, space, "for good", {"text": "cat"}, ttl=None)
    run(client, space, put={"key": "graph", "value": {"text": "cat"}})
    with indexed.database.statement() as connection:
        lives = connection.execute(
            text("SELECT key, ttl_minutes FROM store WHERE prefix = :prefix"),
            {"prefix": ".".join(space)},
        )
        assert {row.key: row.ttl_minutes for row in lives} == {
            "embedded": 90,
            "plain": 90,
            "for good": None,
            "graph": 90,
        }


def test_a_worker_sweeps_what_has_expired(
    client: httpx.Client, indexed: Deployment, space: list[str]
) -> None:
    """Rows and vectors; every `store.ttl.sweep_interval_minutes`."""
    put(client, space, "k", {"text": "cat"}, ttl=5)

    def count(table: str) -> int:
        with indexed.database.statement() as connection:
            query = text(f"SELECT count(*) FROM {table} WHERE prefix = :prefix")
            found: int = connection.execute(query, {"prefix": ".".join(space)}).scalar_one()
            return found

    assert count("store_vectors") == 1
    with indexed.database.statement() as connection:
        connection.execute(
            text("UPDATE store SET expires_at = now() WHERE prefix = :prefix"),
            {"prefix": ".".join(space)},
        )
    until(lambda: count("store") == 0)
    assert count("store_vectors") == 0


def test_an_embedding_function_that_fails_is_told_without_its_secrets(
    client: httpx.Client, space: list[str]
) -> None:
    """The class of its error reaches the client; nothing is written."""
    body = {"namespace": space, "key": "k", "value": {"text": "fail"}}
    failed = client.put("/store/items", json=body)
    assert failed.status_code == 500
    assert failed.json() == {"detail": "The embedding function raised RuntimeError"}
    body["value"] = {"text": "short"}
    misshapen = client.put("/store/items", json=body)
    assert misshapen.status_code == 500 and "store.index.dims" in misshapen.json()["detail"]
    assert keys(client, space) == []


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"index": ["*"] * 100}, 204),
        ({"index": ["*", "*.0"]}, 422),
        ({"index": ["["]}, 204),
        ({"index": []}, 204),
        ({"index": ["x" * 501]}, 422),
        ({"index": ["a"] * 101}, 422),
        ({"index": True}, 422),
        ({"index": ["many[*]"], "value": {"many": list(range(10_001))}}, 422),
    ],
)
def test_hostile_paths_harm_nobody(
    client: httpx.Client, space: list[str], more: dict[str, Any], status: int
) -> None:
    """A client's paths are refused, or lead nowhere; never a fault of ours."""
    body = {"namespace": space, "key": "k", "value": {"a": "cat", "b": "rain", "*": {"0": 1}}}
    assert client.put("/store/items", json={**body, **more}).status_code == status


def test_search_by_meaning_has_a_bottom(client: httpx.Client, space: list[str]) -> None:
    """Each step down costs memory in the graphs process."""
    body = {"namespace_prefix": space, "query": "cat", "limit": 10, "offset": 9_991}
    assert client.post("/store/items/search", json=body).status_code == 400
