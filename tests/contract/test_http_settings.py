"""Which routes are served, and which headers runs learn of."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import PROJECT, Deployment

from greenroom.config import Project
from greenroom.contract.http_settings import list_not_served, read_settings
from greenroom.errors import ConfigError

HTTP = {
    "disable_store": True,
    "disable_meta": True,
    "configurable_headers": {"includes": ["x-tenant*"], "excludes": ["x-tenant-secret"]},
}


def project_of(http: Any) -> Project:
    return Project(directory=Path(), graphs={}, raw={"http": http})


@pytest.fixture(scope="module")
def narrowed() -> Iterator[Deployment]:
    """A server without some of its routes."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        project = json.loads(PROJECT.read_text())
        folder = PROJECT.parent
        graphs = {key: each.replace("./", f"{folder}/") for key, each in project["graphs"].items()}
        file = directory / "langgraph.json"
        file.write_text(json.dumps({**project, "graphs": graphs, "http": HTTP}))
        with Deployment(directory / "server", file) as made:
            made.start_web()
            yield made


def test_what_is_switched_off_is_not_there(narrowed: Deployment) -> None:
    """Neither the routes nor their description; health stays, for whoever watches."""
    with narrowed.client() as client:
        for method, path in (
            ("POST", "/store/items/search"),
            ("GET", "/info"),
            ("GET", "/metrics"),
            ("GET", "/docs"),
            ("GET", "/openapi.json"),
        ):
            assert client.request(method, path, json={}).status_code == 404
        assert client.get("/ok").json() == {"ok": True, "services": {}}
        assert client.post("/threads", json={}).status_code == 200


def configurable_of(client: httpx.Client, headers: dict[str, str]) -> dict[str, Any]:
    body = {"assistant_id": "echo", "input": {}, "config": {"configurable": {"own": 1}}}
    run = client.post("/runs", json=body, headers=headers).json()
    found: dict[str, Any] = run["kwargs"]["config"]["configurable"]
    return found


def test_runs_learn_of_the_headers_that_were_asked_for(narrowed: Deployment) -> None:
    """By patterns, in lower case, without what is excluded."""
    headers = {"X-Tenant": "t", "X-Tenant-Id": "7", "X-Tenant-Secret": "s", "X-Other": "o"}
    with narrowed.client() as client:
        found = configurable_of(client, headers)
    assert found["x-tenant"] == "t"
    assert found["x-tenant-id"] == "7"
    assert found["own"] == 1
    assert not {"x-tenant-secret", "x-other"} & found.keys()


@pytest.mark.parametrize(
    ("rules", "chosen"),
    [
        ({"includes": ["*"]}, {"x-a"}),
        ({"includes": ["*", "authorization"]}, {"x-a", "authorization"}),
        ({"includes": ["Authorization"], "excludes": ["auth*"]}, set()),
        ({"includes": ["x-[ab]"]}, {"x-a"}),
        ({"excludes": ["x-a"]}, set()),
    ],
)
def test_patterns_give_no_credentials_away(rules: Any, chosen: set[str]) -> None:
    """Whoever wants them names them; nor does a header pass for a key of the server's."""
    given = [("X-A", "1"), ("Authorization", "2"), ("Cookie", "3"), ("thread_id", "4")]
    found = read_settings(project_of({"configurable_headers": rules})).headers
    assert found is not None
    assert set(found.choose(given)) == chosen


def test_what_is_asked_for_and_not_there_is_named() -> None:
    """So that nobody waits for routes or priorities that never come."""
    raw = {"http": {"app": "./app.py:app"}}
    project = Project(directory=Path(), graphs={}, raw=raw)
    assert list_not_served(project) == ["http.app"]
    assert list_not_served(project_of({"disable_store": True})) == []


@pytest.mark.parametrize(
    "http",
    [
        ["x"],
        {"disable_store": "yes"},
        {"configurable_headers": ["x"]},
        {"configurable_headers": {"includes": "x"}},
        {"configurable_headers": {"excludes": [1]}},
    ],
)
def test_a_wrong_block_is_refused(http: Any) -> None:
    """At the start, by the key."""
    with pytest.raises(ConfigError, match="http"):
        read_settings(project_of(http))
