"""Who is let in, what graphs are told about them, and what stays theirs in less obvious places."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from deployment import Deployment, events_of, join, new_thread, start, until
from langgraph_sdk import get_sync_client

from greenroom.auth.cache import CallerCache
from greenroom.auth.caller import ANYONE
from greenroom.auth.settings import CacheSettings, read_settings
from greenroom.cli.engine import free_port
from greenroom.config import Config, load_config
from greenroom.errors import ConfigError
from greenroom.graphs import host
from greenroom.graphs.host import load_auth
from greenroom.identifiers import system_assistant_id

HERE = Path(__file__).parent
ECHO = {"assistant_id": "echo", "input": {"text": "hello"}}


@contextmanager
def serving(project: Path, **settings: str) -> Iterator[Deployment]:
    """A web process of one's own."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory), project, **settings) as made:
            made.start_web()
            yield made


@pytest.fixture
def write_project(tmp_path: Path) -> Any:
    """Make a project whose auth handlers are given as text."""

    def write(handlers: str, **block: Any) -> Path:
        (tmp_path / "graphs.py").write_text((HERE / "project" / "graphs.py").read_text())
        (tmp_path / "auth.py").write_text(handlers)
        file = tmp_path / "langgraph.json"
        auth = {"path": "./auth.py:auth", **block}
        file.write_text(json.dumps({"graphs": {"echo": "./graphs.py:echo"}, "auth": auth}))
        return file

    return write


@pytest.mark.parametrize(
    ("token", "status", "detail"),
    [
        ("mallory", 401, "Invalid token"),
        ("teapot", 418, "short and stout"),
        ("nobody", 401, "Unauthorized"),
        ("suspended", 401, "Unauthorized"),
        ("broken", 500, "Authentication failed"),
        ("unreadable", 400, "The credentials cannot be read"),
        ("sleepy", 503, "Authentication takes too long"),
    ],
)
def test_a_handler_that_refuses_fails_or_hangs_lets_nobody_in(
    guarded: Deployment, token: str, status: int, detail: str
) -> None:
    """With the handler's own status and words, and without those of an accident."""
    with guarded.client(token=token) as client:
        answer = client.post("/threads", json={})
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})


def test_headers_of_a_refusal_are_kept_and_cannot_add_others(guarded: Deployment) -> None:
    """A line break in a value would begin a header of somebody else's making."""
    with guarded.client(token="mallory") as client:
        assert client.get("/threads/x").headers["www-authenticate"] == "Bearer"
    with guarded.client(token="teapot") as client:
        headers = client.post("/threads", json={}).headers
    assert headers["x-pot"] == "tea"
    assert "x-bad" not in headers
    assert "set-cookie" not in headers


def test_graphs_are_told_who_calls(ann: httpx.Client) -> None:
    """The user as an object and a mapping, the identity, the permissions; nodes and factories."""
    thread_id = new_thread(ann)
    run = start(ann, thread_id, "echo", input={"text": "hi"})
    (said,) = join(ann, run)["trail"]
    assert said == {
        "text": "hi",
        "user": ["ann", "ann", "secret of ann"],
        "user_id": "ann",
        "permissions": ["write"],
    }
    made = ann.post("/runs/wait", json={"assistant_id": "made", "input": {}}).json()
    assert made == {"trail": ["ann"]}


def test_nobody_else_is_told_what_the_owner_keeps_about_a_caller(
    guarded: Deployment, ann: httpx.Client
) -> None:
    """A run shows whose it is; its caller's own fields are for graphs alone."""
    thread_id = new_thread(ann)
    run = start(ann, thread_id, "made", input={})
    join(ann, run)
    shown = [run, ann.get(f"/threads/{thread_id}/runs/{run['run_id']}").json()]
    shown.extend(ann.get(f"/threads/{thread_id}/runs").json())
    for each in shown:
        user = each["kwargs"]["config"]["configurable"]["langgraph_auth_user"]
        assert user["identity"] == "ann"
        assert "secret of ann" not in json.dumps(each)
    for path in (f"/threads/{thread_id}", f"/threads/{thread_id}/state"):
        assert "secret of ann" not in ann.get(path).text
    assert "secret of ann" not in guarded.log.read_text()


def test_a_client_cannot_say_who_it_is(bob: httpx.Client) -> None:
    """What only the server may write is written last."""
    claimed = {"langgraph_auth_user": {"identity": "ann"}, "langgraph_auth_user_id": "ann"}
    run = {**ECHO, "config": {"configurable": claimed}}
    (said,) = bob.post("/runs/wait", json=run).json()["trail"]
    assert said["user_id"] == "bob"
    run = {**ECHO, "context": claimed}
    (said,) = bob.post("/runs/wait", json=run).json()["trail"]
    assert said["user"][0] == "bob"


def test_a_stateless_runs_output_stays_its_callers(ann: httpx.Client, bob: httpx.Client) -> None:
    """It is kept for a while after its thread has gone, and so is whose it is."""
    run = ann.post("/runs", json=ECHO).json()
    path = f"/runs/{run['run_id']}/join"
    assert ann.get(path).json()["trail"]
    assert ann.get(path).json()["trail"]
    assert ann.get(f"/runs/{run['run_id']}").status_code == 404
    assert bob.get(path).json() == {
        "__error__": {"error": "HTTPException", "message": "404: Run not found"}
    }


def test_the_log_of_a_stateless_runs_webhook_stays_its_callers(
    ann: httpx.Client, bob: httpx.Client
) -> None:
    """The run and its thread have gone; what was owed to the webhook knows whose it was."""
    webhook = f"http://127.0.0.1:{free_port()}/secret"
    run = ann.post("/runs", json={**ECHO, "webhook": webhook}).json()
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/webhooks"

    def listed() -> Any:
        answer = ann.get(path)
        return answer.json() if answer.status_code == 200 else None

    (delivery,) = until(listed)
    assert delivery["url"] == webhook
    assert ann.get(f"/threads/{run['thread_id']}").status_code == 404
    assert bob.get(path).status_code == 404


def test_an_idempotency_key_is_its_callers(ann: httpx.Client, bob: httpx.Client) -> None:
    """Two tenants with one key and one body have two runs."""
    headers = {"idempotency-key": str(uuid4())}
    first = ann.post("/runs", json=ECHO, headers=headers).json()
    again = ann.post("/runs", json=ECHO, headers=headers).json()
    other = bob.post("/runs", json=ECHO, headers=headers).json()
    assert first["run_id"] == again["run_id"]
    assert first["run_id"] != other["run_id"]


def test_a_thread_id_that_is_taken_is_not_told_apart(ann: httpx.Client, bob: httpx.Client) -> None:
    """Bob gets neither ann's thread nor a second one of its id."""
    thread_id = new_thread(ann)
    for if_exists in ("raise", "do_nothing"):
        body = {"thread_id": thread_id, "if_exists": if_exists}
        assert bob.post("/threads", json=body).status_code == 409
    made = {**ECHO, "if_not_exists": "create"}
    assert bob.post(f"/threads/{thread_id}/runs", json=made).status_code == 404
    assert ann.get(f"/threads/{thread_id}/runs").json() == []


def test_bulk_calls_take_only_what_is_the_callers(ann: httpx.Client, bob: httpx.Client) -> None:
    """Pruning and cancelling with a list of ids, and by status, pass over what is not there."""
    hers, his = new_thread(ann), new_thread(bob)
    run = start(ann, hers, "echo", input={"seconds": 60})
    pruned = bob.post("/threads/prune", json={"thread_ids": [hers, his]}).json()
    assert pruned == {"pruned_count": 1}
    keep = {"thread_ids": [hers], "strategy": "keep_latest"}
    assert bob.post("/threads/prune", json=keep).json() == {"pruned_count": 0}
    for body in ({"thread_id": hers, "run_ids": [run["run_id"]]}, {"status": "all"}):
        assert bob.post("/runs/cancel", json=body).status_code == 404
    assert ann.post("/runs/cancel", json={"status": "all"}).status_code == 204
    until(
        lambda: ann.get(f"/threads/{hers}/runs/{run['run_id']}").json()["status"] == "interrupted"
    )


def test_deleting_an_assistant_takes_only_the_callers_threads(
    ann: httpx.Client, bob: httpx.Client
) -> None:
    """A thread whose metadata name bob's assistant is still ann's."""
    made = bob.post("/assistants", json={"graph_id": "echo"}).json()["assistant_id"]
    thread = {"metadata": {"assistant_id": made}}
    hers = ann.post("/threads", json=thread).json()["thread_id"]
    his = bob.post("/threads", json=thread).json()["thread_id"]
    assert bob.delete(f"/assistants/{made}?delete_threads=true").status_code == 204
    assert ann.get(f"/threads/{hers}").status_code == 200
    assert bob.get(f"/threads/{his}").status_code == 404


def test_a_graphs_own_assistant_is_everybodys_to_run(ann: httpx.Client, bob: httpx.Client) -> None:
    """By the graph's id or by its own, though nobody's filter finds it."""
    for key in ("echo", str(system_assistant_id("echo"))):
        for client in (ann, bob):
            answer = client.post("/runs/wait", json={**ECHO, "assistant_id": key})
            assert answer.json()["trail"]
    assert bob.get(f"/assistants/{system_assistant_id('echo')}").status_code == 404


def test_checkpoints_are_read_by_whose_thread_they_are(
    ann: httpx.Client, bob: httpx.Client
) -> None:
    """An id from another thread finds nothing on one's own, whatever the body says."""
    hers, his = new_thread(ann), new_thread(bob)
    join(ann, start(ann, hers, "echo", input={"text": "private"}))
    join(bob, start(bob, his, "echo", input={"text": "mine"}))
    found = ann.get(f"/threads/{hers}/state").json()["checkpoint_id"]
    for checkpoint in (
        {"checkpoint_id": found},
        {"checkpoint_id": found, "thread_id": hers},
        {"checkpoint_id": found, "checkpoint_ns": "", "checkpoint_map": {"": found}},
    ):
        body = {"checkpoint": checkpoint}
        answer = bob.post(f"/threads/{his}/state/checkpoint", json=body)
        assert "private" not in answer.text
        history = bob.post(f"/threads/{his}/history", json={"before": checkpoint, "limit": 50})
        assert "private" not in history.text
        run = {**ECHO, "checkpoint": checkpoint}
        assert "private" not in bob.post(f"/threads/{his}/runs/wait", json=run).text
        update = {"values": {"text": "x"}, "checkpoint": checkpoint}
        assert "private" not in bob.post(f"/threads/{his}/state", json=update).text


def test_a_copy_belongs_to_who_made_it(ann: httpx.Client, guarded: Deployment) -> None:
    """The create handler's metadata are those of the copy."""
    thread_id = new_thread(ann)
    copied = ann.post(f"/threads/{thread_id}/copy").json()
    assert copied["metadata"]["owner"] == "ann"
    assert copied["thread_id"] != thread_id


def test_a_cron_runs_as_its_creator(ann: httpx.Client, bob: httpx.Client) -> None:
    """On a thread, and on threads that it makes: these are the creator's, too."""
    thread_id = new_thread(ann)
    cron = {"assistant_id": "echo", "schedule": "* * * * * *", "input": {"text": "tick"}}
    on_thread = ann.post(f"/threads/{thread_id}/runs/crons", json=cron).json()
    alone = ann.post("/runs/crons", json={**cron, "on_run_completed": "keep"}).json()
    assert on_thread["user_id"] == "ann"

    def said() -> Any:
        values = ann.get(f"/threads/{thread_id}/state").json()["values"]
        return (values or {}).get("trail")

    first = until(said)[0]
    assert first["user"] == ["ann", "ann", "secret of ann"]

    def kept() -> Any:
        found = ann.post("/threads/search", json={"metadata": {"owner": "ann"}, "limit": 1000})
        return [
            one
            for one in found.json()
            if "tick" in str(one["values"]) and one["thread_id"] != thread_id
        ]

    assert until(kept)[0]["metadata"]["owner"] == "ann"
    for each in (on_thread, alone):
        assert bob.delete(f"/runs/crons/{each['cron_id']}").status_code == 404
        assert ann.delete(f"/runs/crons/{each['cron_id']}").status_code == 204


def test_streams_are_for_those_who_see_the_thread(
    guarded: Deployment, ann: httpx.Client, bob: httpx.Client
) -> None:
    """A thread's stream is its owner's alone; a run's shows strangers that it is unknown."""
    thread_id = new_thread(ann)
    run = start(ann, thread_id, "echo", input={"seconds": 2}, stream_resumable=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}/stream"
    with bob.stream("GET", path, headers={"last-event-id": "-1"}) as response:
        assert [name for name, _, _ in events_of(response)] == ["error"]
    assert bob.get(f"/threads/{thread_id}/stream").status_code == 404
    assert bob.get(f"/threads/{uuid4()}/stream").status_code == 404
    with ann.stream("GET", path, headers={"last-event-id": "-1"}) as response:
        assert "values" in [name for name, _, _ in events_of(response)]


def test_store_namespaces_cannot_be_left(guarded: Deployment, ann: httpx.Client) -> None:
    """Dots, wildcards and long ways round lead nowhere."""
    item = {"namespace": ["x"], "key": "k", "value": {"note": "private"}}
    with guarded.client(token="bob") as bob:
        assert bob.put("/store/items", json=item).status_code == 204
        assert bob.get("/store/items?namespace=x&key=k").json()["namespace"] == ["bob", "x"]
    # Whose identity is `bob.x` is not bob with a namespace x.
    with guarded.client(token="dotted") as dotted:
        for answer in (
            dotted.get("/store/items?namespace=x&key=k"),
            dotted.post("/store/items/search", json={"namespace_prefix": []}),
            dotted.put("/store/items", json=item),
            dotted.request("DELETE", "/store/items", json={"namespace": ["x"], "key": "k"}),
        ):
            assert answer.status_code == 422
    for prefix in ([], ["bob"], ["*"], ["..", "bob"], ["%"], ["x", "..", "..", "bob"]):
        found = ann.post("/store/items/search", json={"namespace_prefix": prefix})
        assert "private" not in found.text
        listed = ann.post("/store/namespaces", json={"prefix": prefix})
        assert "bob" not in listed.text
    listed = ann.post("/store/namespaces", json={"suffix": ["x"]}).json()
    assert listed == {"namespaces": []}
    assert "private" not in ann.get("/store/items?namespace=bob.x&key=k").text


def test_the_sdk_works_behind_a_handler(guarded: Deployment) -> None:
    """With a header on the client, as its documentation says."""
    client = get_sync_client(url=guarded.url, headers={"authorization": "Bearer ann"})
    thread = client.threads.create()
    values = client.runs.wait(thread["thread_id"], "echo", input={"text": "hi"})
    assert values["trail"][0]["user_id"] == "ann"  # type: ignore[index]
    assert UUID(client.threads.search(limit=1)[0]["thread_id"])


EVERY_PARAMETER = """
from langgraph_sdk import Auth
from starlette.requests import Request
auth = Auth()

@auth.authenticate
async def authenticate(
    request: Request, body: dict, path: str, method: str, path_params: dict,
    query_params: dict, headers: dict, authorization: str | None,
):
    assert (await request.body()) and request.headers["x-me"] == "me"
    told = [body["metadata"], path, method, path_params, query_params["q"], authorization]
    return {"identity": headers[b"x-me"].decode(), "told": told, "calls": next(count)}

import itertools
count = itertools.count(1)

@auth.on.threads.create
async def create(ctx, value):
    value["metadata"] = {"told": ctx.user["told"], "calls": ctx.user.calls, "all": sorted(value)}

@auth.on.threads
async def specific(ctx, value):
    return {"nobody": "sees this"}

@auth.on(resources="threads", actions=["search"])
async def search(ctx, value):
    return True
"""


def test_handlers_get_what_they_ask_for_and_the_most_specific_counts(write_project: Any) -> None:
    """Every documented parameter; and of several handlers that fit, the nearest."""
    with serving(write_project(EVERY_PARAMETER)) as server, server.client() as client:
        client.headers.update({"x-me": "me", "authorization": "Basic x"})
        made = client.post("/threads?q=1", json={"metadata": {"a": 1}})
        assert made.status_code == 200, server.log.read_text()
        assert made.json()["metadata"] == {
            "told": [{"a": 1}, "/threads", "POST", {}, "1", "Basic x"],
            "calls": 1,
            "all": ["if_exists", "metadata", "thread_id", "ttl"],
        }
        asked = {"metadata": {"calls": 1}}
        assert len(client.post("/threads/search?q=1", json=asked).json()) == 1
        thread_id = made.json()["thread_id"]
        body = {"metadata": {"a": 2}}
        answer = client.request("PATCH", f"/threads/{thread_id}?q=1", json=body)
        assert answer.status_code == 404


BY_ACTION = """
from langgraph_sdk import Auth
auth = Auth()

@auth.authenticate
async def authenticate(authorization: str | None):
    return authorization

@auth.on.threads.read
async def read(ctx, value):
    return {"read": 1, "open": {"$ne": 2}} if ctx.user.identity == "typo" else {"$or": [{"a": 1}]}

@auth.on.threads.update
async def update(ctx, value):
    return 42

@auth.on.threads.delete
async def delete(ctx, value):
    assert ctx.user.identity == "boss", "the reason stays here"

@auth.on.threads.create_run
async def create_run(ctx, value):
    raise KeyError("the reason stays here")
"""


def test_a_filter_that_is_not_understood_refuses(write_project: Any) -> None:
    """An unknown operator, a result of another type, an assertion, an accident: nothing is seen."""
    settings = {"GREENROOM_AUTH_DEFAULT": "deny"}
    with serving(write_project(BY_ACTION)) as server:
        with server.client() as client:
            client.headers["authorization"] = "typo"
            thread_id = client.post("/threads", json={"metadata": {"a": 1}}).json()["thread_id"]
            answer = client.get(f"/threads/{thread_id}")
            assert answer.status_code == 500
            assert "unknown operator $ne" in answer.json()["detail"]
            client.headers["authorization"] = "other"
            assert client.get(f"/threads/{thread_id}").status_code == 200
            answer = client.patch(f"/threads/{thread_id}", json={})
            assert answer.status_code == 500
            assert "invalid result" in answer.json()["detail"]
            answer = client.delete(f"/threads/{thread_id}")
            assert (answer.status_code, answer.json()) == (403, {"detail": "Forbidden"})
            answer = client.post(f"/threads/{thread_id}/runs", json=ECHO)
            assert (answer.status_code, answer.json()) == (500, {"detail": "Authentication failed"})
            client.headers["authorization"] = "boss"
            assert client.delete(f"/threads/{thread_id}").status_code == 204
        # What no handler covers is open, and said to be.
        until(lambda: server.count_log("no auth handler covers these routes"))
        log = server.log.read_text()
        assert "POST /threads/search" in log
        assert "GET /threads/<thread_id>'" not in log
        url = server.start_web(**settings)
        with server.client(url) as client:
            client.headers["authorization"] = "other"
            answer = client.post("/threads", json={})
            assert answer.status_code == 403
            assert "threads.create" in answer.json()["detail"]
            assert client.put("/store/items", json={}).status_code == 422


def test_a_caller_is_remembered_by_the_headers_that_the_owner_names(write_project: Any) -> None:
    """As long as the ttl says; nobody is remembered who sends none of them."""
    cache = {"cache_keys": ["Authorization", "x-me"], "ttl_seconds": 3600, "max_size": 2}
    with serving(write_project(EVERY_PARAMETER, cache=cache)) as server, server.client() as client:

        def calls(authorization: str) -> int:
            headers = {"x-me": "me", "authorization": authorization}
            answer = client.post("/threads?q=1", json={"metadata": {}}, headers=headers)
            number: int = answer.json()["metadata"]["calls"]
            return number

        first = calls("1")
        assert calls("1") == first
        assert calls("2") == first + 1
        assert calls("3") == first + 2
        # The oldest has made room.
        assert calls("1") == first + 3


def test_callers_are_told_apart_by_whole_headers() -> None:
    """Not by what two of them look like when they are joined; and nobody by having none."""
    cache = CallerCache(CacheSettings(("a", "b"), 60, 10))
    pairs = [{"a": "xy", "b": "z"}, {"a": "x", "b": "yz"}, {"a": "xyz"}, {"b": "xyz"}]
    keys = [cache.key(pair) for pair in pairs]
    assert len(set(keys)) == len(pairs)
    assert cache.key({}) is None
    cache.keep(None, ANYONE)
    assert cache.find(None) is None


UNKNOWN_PARAMETER = """
from langgraph_sdk import Auth
auth = Auth()

@auth.authenticate
async def who(token): ...
"""


@pytest.mark.parametrize(
    ("handlers", "reason"),
    [
        ("import nothing_of_that_name", "cannot be imported"),
        ("auth = 1", "not a langgraph_sdk.Auth"),
        ("other = 1", "there is no 'auth'"),
        ("from langgraph_sdk import Auth\nauth = Auth()", "no @auth.authenticate handler"),
        (UNKNOWN_PARAMETER, "unknown parameter 'token'"),
    ],
)
def test_a_server_whose_handlers_cannot_be_used_does_not_start(
    write_project: Any, handlers: str, reason: str
) -> None:
    """Better no server than one that lets everybody in."""
    config = configured(write_project(handlers))
    with pytest.raises(ConfigError, match=reason):
        load_auth(config)
    # The process that the web asks never listens.
    with pytest.raises(ConfigError, match=reason):
        host.main(config)


def configured(project: Path, **environment: str) -> Config:
    """The settings of a project without engines."""
    engines = {"DATABASE_URI": "postgresql://nowhere/x", "REDIS_URI": "redis://nowhere"}
    return load_config(project, {**engines, **environment})


def test_an_image_with_its_handlers_in_the_environment_is_guarded() -> None:
    """LANGGRAPH_AUTH is what image builds leave of the block."""
    config = configured(
        Path("/nowhere/langgraph.json"),
        LANGSERVE_GRAPHS='{"echo": "./graphs.py:echo"}',
        LANGGRAPH_AUTH='{"path": "./auth.py:auth"}',
    )
    assert read_settings(config).path == "./auth.py:auth"


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"path": "auth.py"}, "auth.path"),
        ({"path": 1}, "auth.path"),
        ({"cache": {}}, "cache_keys"),
        ({"cache": {"cache_keys": []}}, "cache_keys"),
        ({"cache": {"cache_keys": ["a"], "ttl_seconds": 0}}, "ttl_seconds"),
        ({"cache": {"cache_keys": ["a"], "max_size": 0}}, "max_size"),
        ({"openapi": "x"}, "openapi"),
    ],
)
def test_a_wrong_block_is_refused_by_the_key(
    write_project: Any, block: dict[str, Any], reason: str
) -> None:
    """At the start, before anybody is let in."""
    config = configured(write_project("", **block))
    with pytest.raises(ConfigError, match=reason):
        read_settings(config)
