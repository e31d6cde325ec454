"""Which routes are served, and which headers runs learn of."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import PROJECT, Deployment, until

from greenroom.config import Project
from greenroom.contract.http_settings import read_settings
from greenroom.errors import ConfigError

HTTP = {
    "disable_store": True,
    "disable_meta": True,
    "configurable_headers": {"includes": ["x-tenant*"], "excludes": ["x-tenant-secret"]},
    "logging_headers": {"includes": ["x-*", "authorization"], "excludes": ["x-private*"]},
}


def project_of(http: Any) -> Project:
    return Project(directory=Path(), graphs={}, raw={"http": http})


@pytest.fixture(scope="module")
def narrowed() -> Iterator[Deployment]:
    """A server without some of its routes."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        file = shutil.copytree(PROJECT.parent, directory / "project") / "langgraph.json"
        file.write_text(json.dumps({**json.loads(PROJECT.read_text()), "http": HTTP}))
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


def test_requests_are_logged_with_the_headers_that_were_asked_for(narrowed: Deployment) -> None:
    """Without what is excluded, and without what is secret by its name; other lines carry them."""
    headers = {
        "X-Request-Id": "seen-in-the-log",
        "X-Private-Note": "hidden-1",
        "X-Api-Key": "hidden-2",
        "Authorization": "hidden-3",
        "X-Auth-Token": "hidden-4",
        "X-Long": "y" * 5000,
    }
    with narrowed.client() as client:
        assert client.get("/threads/not-a-uuid", headers=headers).status_code == 422
        # On the same connection: what was bound for the request before is gone.
        assert client.post("/threads/search", json={}).status_code == 200

    def lines(path: str) -> list[str]:
        found = narrowed.log.read_text().splitlines()
        return [line for line in found if f"path={path} " in f"{line} " and "status=" in line]

    (line,) = until(lambda: lines("/threads/not-a-uuid"))
    assert "status=422" in line
    assert "seen-in-the-log" in line
    assert "y" * 512 in line
    assert "y" * 513 not in line
    (other,) = until(lambda: lines("/threads/search"))
    assert "seen-in-the-log" not in other
    assert "hidden-" not in narrowed.log.read_text()


@pytest.mark.parametrize(
    ("rules", "chosen"),
    [
        ({"includes": ["*"]}, {"x-a", "idempotency-key"}),
        ({"includes": ["*"], "excludes": ["x-*"]}, {"idempotency-key"}),
        ({"includes": ["authorization", "cookie", "x-csrf-token"]}, set()),
        ({"excludes": ["x-a"]}, set()),
    ],
)
def test_no_pattern_and_no_name_puts_a_secret_into_the_log(rules: Any, chosen: set[str]) -> None:
    """Whatever is asked for."""
    names = ("X-A", "Idempotency-Key", "Authorization", "Proxy-Authorization", "Cookie")
    secret = ("X-Api-Key", "X-CSRF-Token", "Client-Secret", "X-Session", "Signature")
    found = read_settings(project_of({"logging_headers": rules})).logged
    assert found is not None
    assert set(found.choose((name, "1") for name in (*names, *secret))) == chosen


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


@pytest.mark.parametrize(
    "http",
    [
        ["x"],
        {"disable_store": "yes"},
        {"configurable_headers": ["x"]},
        {"configurable_headers": {"includes": "x"}},
        {"configurable_headers": {"excludes": [1]}},
        {"logging_headers": {"includes": "x"}},
        {"app": "./app.py"},
        {"app": 1},
        {"enable_custom_route_auth": "yes"},
        {"middleware_order": "never"},
    ],
)
def test_a_wrong_block_is_refused(http: Any) -> None:
    """At the start, by the key."""
    with pytest.raises(ConfigError, match="http"):
        read_settings(project_of(http))
