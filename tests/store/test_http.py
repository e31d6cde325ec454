"""Requests and answers of the store, byte for byte where clients look."""

from typing import Any

import httpx
import pytest


def test_answers_have_the_reference_shapes(http: httpx.Client, space: list[str]) -> None:
    """204 without a body, 200 null for a missing item (http.md, section 6)."""
    where = {"namespace": space, "key": "k"}
    written = http.put("/store/items", json={**where, "value": {"a": 1}})
    assert (written.status_code, written.content) == (204, b"")
    assert "content-type" not in written.headers
    query = {"namespace": ".".join(space), "key": "k"}
    item = http.get("/store/items", params=query).json()
    assert list(item) == ["namespace", "key", "value", "created_at", "updated_at"]
    found = http.post("/store/items/search", json={"namespace_prefix": space}).json()
    assert found == {"items": [{**item, "score": None}]}
    assert http.post("/store/namespaces", json={"prefix": space}).json() == {"namespaces": [space]}
    assert http.request("DELETE", "/store/items", json=where).status_code == 204
    missing = http.get("/store/items", params=query)
    assert (missing.status_code, missing.content) == (200, b"null")


def test_a_missing_key_says_so_in_both_words(http: httpx.Client) -> None:
    """The reference says `error`, everything else of ours `detail`."""
    response = http.get("/store/items", params={"namespace": "a"})
    assert response.status_code == 400
    assert response.json() == {"detail": "Key is required", "error": "Key is required"}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "key=k",
        "namespace=&key=k",
        "namespace=a..b&key=k",
        "namespace=.&key=k",
    ],
)
def test_a_get_without_a_namespace_is_refused(http: httpx.Client, query: str) -> None:
    """422, with a reason."""
    response = http.get(f"/store/items?{query}")
    assert response.status_code == 422 and isinstance(response.json()["detail"], str)


def test_hostile_text_in_a_query_string_finds_nothing(http: httpx.Client) -> None:
    """NUL and bytes that are no UTF-8."""
    response = http.get("/store/items?namespace=%00&key=%ff%00")
    assert (response.status_code, response.content) == (200, b"null")


@pytest.mark.parametrize("body", [{}, {"namespace_prefix": None}, {"namespace_prefix": []}])
def test_no_prefix_means_everything(http: httpx.Client, space: list[str], body: Any) -> None:
    """The reference answers 500 when it is missing."""
    http.put("/store/items", json={"namespace": space, "key": "k", "value": {"only": space[1]}})
    asked = {**body, "filter": {"only": space[1]}, "query": None, "refresh_ttl": None}
    found = http.post("/store/items/search", json=asked).json()["items"]
    assert [item["namespace"] for item in found] == [space]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/store/items/search", {"limit": -1}),
        ("/store/items/search", {"limit": 10**30}),
        ("/store/items/search", {"offset": 2**31}),
        ("/store/items/search", {"filter": []}),
        ("/store/items/search", {"namespace_prefix": ["a.b"]}),
        ("/store/namespaces", {"max_depth": 0}),
        ("/store/namespaces", {"max_depth": 10**30}),
        ("/store/namespaces", {"suffix": [""]}),
        ("/store/namespaces", {"prefix": None}),
    ],
)
def test_wrong_searches_are_refused(http: httpx.Client, path: str, body: Any) -> None:
    """422, with a reason."""
    response = http.post(path, json=body)
    assert response.status_code == 422 and isinstance(response.json()["detail"], str)
