"""Servers without handlers: built-in keys, or nobody at the door."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from deployment import Deployment, until
from langgraph_sdk import get_sync_client

from greenroom.auth.settings import read_keys, read_settings
from greenroom.config import load_config
from greenroom.errors import ConfigError

FIRST, SECOND = "first-key-of-the-owner", "second-key-of-the-owner"
DIGEST = hashlib.sha256(SECOND.encode()).hexdigest()
KEYS = f"ci={FIRST}, {'sha256:' + DIGEST}"


@pytest.fixture(scope="module")
def keyed() -> Iterator[Deployment]:
    """A server with two keys, one of them known by its digest alone."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory), GREENROOM_API_KEYS=KEYS) as made:
            made.start_web()
            made.start_worker()
            yield made


def send(server: Deployment, key: str | None, path: str = "/threads") -> httpx.Response:
    with server.client() as client:
        return client.post(path, json={}, headers={} if key is None else {"x-api-key": key})


def test_each_key_opens_and_nothing_else_does(keyed: Deployment) -> None:
    """Both forms of key; neither a part of one, nor the digest itself."""
    assert [send(keyed, key).status_code for key in (FIRST, SECOND)] == [200, 200]
    for key in (None, "wrong", FIRST[:-1], f"{FIRST}x", FIRST.upper(), DIGEST, f"ci={FIRST}"):
        answer = send(keyed, key, "/runs/wait")
        assert answer.status_code == 401
        assert "x-api-key" in answer.json()["detail"]
    with keyed.client() as client:
        assert client.get("/ok").status_code == 200
        assert client.get("/openapi.json").json()["security"] == [{"apiKey": []}]


def test_a_run_knows_its_key_by_name_and_the_log_never_shows_one(keyed: Deployment) -> None:
    """The SDK sends its `api_key` in this very header."""
    client = get_sync_client(url=keyed.url, api_key=FIRST)
    thread = client.threads.create()
    run = client.runs.create(thread["thread_id"], "echo", input={})
    kwargs = run["kwargs"]  # type: ignore[typeddict-item]
    assert kwargs["config"]["configurable"]["langgraph_auth_user_id"] == "ci"
    client.runs.join(thread["thread_id"], run["run_id"])
    log = keyed.log.read_text()
    assert FIRST not in log
    assert SECOND not in log


@pytest.mark.parametrize("text", ["short", f"{FIRST}, name=short", "sha256:abc"])
def test_a_key_that_can_be_guessed_is_refused_without_being_shown(text: str) -> None:
    """The sentence names the entry by its number."""
    with pytest.raises(ConfigError) as raised:
        read_keys(text)
    assert "entry" in str(raised.value)
    assert not any(part in str(raised.value) for part in ("short", "sha256:abc", FIRST))


def test_keys_and_handlers_are_not_mixed() -> None:
    """Two ways in are one too many to think about."""
    guarded = Path(__file__).parent / "project" / "langgraph.json"
    engines = {"DATABASE_URI": "postgresql://nowhere/x", "REDIS_URI": "redis://nowhere"}
    config = load_config(guarded, {**engines, "GREENROOM_API_KEYS": KEYS})
    assert FIRST not in repr(config)
    with pytest.raises(ConfigError, match="both set"):
        read_settings(config)


def test_an_open_server_beyond_this_machine_says_so(deployment: Deployment) -> None:
    """On loopback there is nothing to warn of."""
    warning = "everybody who reaches this address may do everything"
    deployment.start_web()
    assert deployment.count_log(warning) == 0
    deployment.start_web(HOST="0.0.0.0")
    until(lambda: deployment.count_log(warning) == 1)
    deployment.start_web(HOST="0.0.0.0", GREENROOM_API_KEYS=FIRST)
    assert deployment.count_log(warning) == 1
