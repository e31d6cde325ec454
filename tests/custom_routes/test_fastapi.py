"""FastAPI, the framework that most owners use."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from deployment import new_thread
from openapi_spec_validator import OpenAPIV31SpecValidator

from greenroom.custom_routes.description import merge

Serve = Callable[..., AbstractContextManager[httpx.Client]]
FAST = {"app": "./fast.py:app"}


@pytest.fixture(scope="module")
def fast(serve: Serve) -> Iterator[httpx.Client]:
    """A server with a FastAPI application."""
    with serve("fast", http=FAST) as client:
        yield client


def test_its_routes_dependencies_and_models_work(fast: httpx.Client) -> None:
    """And what it refuses, it refuses in its own words."""
    answer = fast.get("/shop/7", headers={"x-shop": "dark"})
    assert answer.json() == {"colour": "dark red", "metres": 7}
    assert answer.headers["x-stamped"] == "yes"
    assert fast.get("/shop/7").json() == {"detail": "which shop?"}
    assert fast.get("/shop/seven", headers={"x-shop": "dark"}).status_code == 422
    thread = {"colour": "green", "metres": 1}
    assert fast.post("/threads/count", json=thread).json() == "green"
    assert fast.post("/threads/count", json={}).status_code == 422


def test_its_middleware_wraps_the_api(fast: httpx.Client) -> None:
    """As one of `@app.middleware("http")` does with its own routes."""
    thread_id = new_thread(fast)
    answer = fast.get(f"/threads/{thread_id}")
    assert (answer.status_code, answer.headers["x-stamped"]) == (200, "yes")
    assert answer.json()["thread_id"] == thread_id


def test_its_pages_come_after_ours(fast: httpx.Client) -> None:
    """Those at paths that we have not are its own."""
    assert "Greenroom API" in fast.get("/docs").text
    assert "Greenroom" in fast.get("/openapi.json").json()["info"]["title"]
    redoc = fast.get("/redoc")
    assert (redoc.status_code, "redoc" in redoc.text.lower()) == (200, True)


def test_without_ours_its_own_pages_are_served(serve: Serve) -> None:
    """Where `disable_meta` takes ours away."""
    with serve("fast-alone", http={**FAST, "disable_meta": True}) as client:
        assert client.get("/openapi.json").json()["info"]["title"] == "The owner's"
        assert "swagger" in client.get("/docs").text.lower()


def test_it_stands_in_the_description_of_the_api(fast: httpx.Client) -> None:
    """Its routes in place of ours, its models beside ours of the same name."""
    document = fast.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    schemas = document["components"]["schemas"]
    shown = document["paths"]["/shop/{thread_id}"]["get"]["responses"]["200"]
    assert shown["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/App.Thread"
    }
    assert set(schemas["App.Thread"]["properties"]) == {"colour", "metres"}
    assert "thread_id" in schemas["Thread"]["properties"]
    counted = document["paths"]["/threads/count"]["post"]
    assert counted["summary"] == "Count Threads"
    assert "post" in document["paths"]["/threads/search"]


def test_what_cannot_be_described_leaves_ours_alone(serve: Serve, engines: Any) -> None:
    """With a line in the log, and asked for again the next time."""
    with serve("undescribed", http={"app": "./undescribed.py:app"}) as client:
        for times in (1, 2):
            document = client.get("/openapi.json").json()
            assert "/threads" in document["paths"]
            assert engines.count_log("http.app is not described") == times


def test_paths_of_one_shape_are_one_place() -> None:
    """Whatever their parameters are called; of ours the methods stay that are not taken."""
    ours = {
        "paths": {
            "/a/{one}": {"get": {"summary": "ours"}, "post": {"summary": "ours"}},
            "/b/{one}": {"get": {"summary": "ours"}},
        },
        "components": {"schemas": {}},
        "tags": [],
        "security": [{"key": []}],
    }
    own = {"paths": {path: {"get": {"summary": "own"}} for path in ("/a/{one}", "/b/{two}")}}
    paths = merge(ours, own, is_guarded=False)["paths"]
    assert set(paths) == {"/a/{one}", "/b/{two}"}
    assert paths["/a/{one}"]["get"] == {"summary": "own", "security": []}
    assert paths["/a/{one}"]["post"] == {"summary": "ours"}
