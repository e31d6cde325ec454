"""Every route of the server against everybody who should get nothing out of it.

A route that is added without a line in REQUESTS fails here, and one that forgets to ask or to
filter shows what is ann's, or lets it be changed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment, join, new_thread, start

SECRET = "only-ann-may-know"
OPEN = {"GET /", "GET /ok", "GET /info", "GET /metrics"}
"""Of those who need not say who they are (langgraph-json.md, section 4)."""


@dataclass(frozen=True)
class World:
    """What is ann's."""

    thread_id: str
    run_id: str
    assistant_id: str
    cron_id: str
    checkpoint_id: str


@dataclass(frozen=True)
class Request:
    """A request that ann may make, and what becomes of it when others do."""

    body: Any = None
    query: str = ""
    others: tuple[int, ...] = (404,)
    """What another tenant is answered; 200 where it is about that tenant's own things."""
    writes: bool = False
    answer: int = 200
    """What ann is answered."""


ENDLESS = ("GET /threads/{thread_id}/stream", "POST /threads/{thread_id}/stream/events")
RUN = {"assistant_id": "echo", "input": {"text": SECRET}}
ITEM = {"namespace": ["notes"], "key": "k"}
CRON = {"assistant_id": "{assistant_id}", "schedule": "0 0 1 1 *", "input": {}}

REQUESTS = {
    "POST /assistants": Request({"graph_id": "echo"}, others=(200,), writes=True),
    "GET /assistants/{assistant_id}": Request(),
    "PATCH /assistants/{assistant_id}": Request({"name": "mine"}, writes=True),
    "DELETE /assistants/{assistant_id}": Request(
        query="?delete_threads=true", writes=True, answer=204
    ),
    "POST /assistants/search": Request({"limit": 1000}, others=(200,)),
    "POST /assistants/count": Request({"name": SECRET}, others=(200,)),
    "GET /assistants/{assistant_id}/graph": Request(),
    "GET /assistants/{assistant_id}/schemas": Request(),
    "GET /assistants/{assistant_id}/subgraphs": Request(),
    "GET /assistants/{assistant_id}/subgraphs/{namespace}": Request(),
    "POST /assistants/{assistant_id}/versions": Request({}),
    "POST /assistants/{assistant_id}/latest": Request({"version": 1}, writes=True),
    "POST /threads": Request({"thread_id": "{thread_id}"}, others=(409,), writes=True, answer=409),
    "GET /threads/{thread_id}": Request(),
    "PATCH /threads/{thread_id}": Request({"metadata": {"mine": 1}}, writes=True),
    "DELETE /threads/{thread_id}": Request(writes=True, answer=204),
    "POST /threads/search": Request({"limit": 1000}, others=(200,)),
    "POST /threads/count": Request({"metadata": {"note": SECRET}}, others=(200,)),
    "POST /threads/prune": Request({"thread_ids": ["{thread_id}"]}, others=(200,), writes=True),
    "POST /threads/{thread_id}/copy": Request(writes=True),
    "GET /threads/{thread_id}/storage": Request(),
    "GET /threads/{thread_id}/state": Request(),
    "POST /threads/{thread_id}/state": Request({"values": {"text": "mine"}}, writes=True),
    "GET /threads/{thread_id}/state/{checkpoint_id}": Request(),
    "POST /threads/{thread_id}/state/checkpoint": Request(
        {"checkpoint": {"checkpoint_id": "{checkpoint_id}"}}
    ),
    "GET /threads/{thread_id}/history": Request(),
    "POST /threads/{thread_id}/history": Request({"limit": 100}),
    "POST /threads/{thread_id}/runs": Request(RUN, writes=True),
    "GET /threads/{thread_id}/runs": Request(),
    "POST /threads/{thread_id}/runs/wait": Request({**RUN, "if_not_exists": "create"}, writes=True),
    "POST /threads/{thread_id}/runs/stream": Request(
        {**RUN, "multitask_strategy": "rollback"}, writes=True
    ),
    "GET /threads/{thread_id}/runs/{run_id}": Request(),
    "DELETE /threads/{thread_id}/runs/{run_id}": Request(writes=True, answer=204),
    # For an unknown run the reference answers 200, too, and tells it in the body.
    "GET /threads/{thread_id}/runs/{run_id}/join": Request(others=(200,)),
    "GET /threads/{thread_id}/runs/{run_id}/stream": Request(others=(200,)),
    "POST /threads/{thread_id}/runs/{run_id}/cancel": Request(writes=True, answer=404),
    "GET /threads/{thread_id}/runs/{run_id}/webhooks": Request(),
    # A stream that has no end: opening it is all.
    "GET /threads/{thread_id}/stream": Request(),
    # What is not there: an answer that says so with 200, a stream that ends at once.
    "POST /threads/{thread_id}/stream/events": Request({"channels": ["values"]}, others=(200,)),
    "POST /threads/{thread_id}/commands": Request(
        {"id": 1, "method": "agent.getTree", "params": {}}, others=(200,)
    ),
    "POST /runs": Request({**RUN, "assistant_id": "{assistant_id}"}, writes=True),
    "POST /runs/wait": Request({**RUN, "assistant_id": "{assistant_id}"}, writes=True),
    "POST /runs/stream": Request({**RUN, "assistant_id": "{assistant_id}"}, writes=True),
    "POST /runs/batch": Request([{**RUN, "assistant_id": "{assistant_id}"}], writes=True),
    "POST /runs/cancel": Request(
        {"thread_id": "{thread_id}", "run_ids": ["{run_id}"]}, writes=True, answer=404
    ),
    "GET /runs/{run_id}": Request(),
    "GET /runs/{run_id}/join": Request(others=(200,)),
    "GET /runs/{run_id}/stream": Request(others=(200,)),
    "POST /runs/{run_id}/cancel": Request(writes=True, answer=404),
    "POST /runs/crons": Request(CRON, writes=True),
    "POST /threads/{thread_id}/runs/crons": Request({**CRON, "assistant_id": "echo"}, writes=True),
    "GET /runs/crons/{cron_id}": Request(),
    "PATCH /runs/crons/{cron_id}": Request({"enabled": False}, writes=True),
    "DELETE /runs/crons/{cron_id}": Request(writes=True, answer=204),
    "POST /runs/crons/search": Request({"limit": 1000}, others=(200,)),
    "POST /runs/crons/count": Request({}, others=(200,)),
    "PUT /store/items": Request(
        {**ITEM, "value": {"mine": 1}}, others=(204,), writes=True, answer=204
    ),
    "GET /store/items": Request(query="?namespace=notes&key=k", others=(200,)),
    "DELETE /store/items": Request(ITEM, others=(204,), writes=True, answer=204),
    "POST /store/items/search": Request({"namespace_prefix": []}, others=(200,)),
    "POST /store/namespaces": Request({}, others=(200,)),
}


def make_world(ann: httpx.Client) -> World:
    """One of everything, with a secret in each."""
    made = ann.post(
        "/assistants",
        json={
            "graph_id": "echo",
            "name": SECRET,
            "metadata": {"note": SECRET},
            "config": {"configurable": {"note": SECRET}},
        },
    ).json()
    thread_id = ann.post("/threads", json={"metadata": {"note": SECRET}}).json()["thread_id"]
    run = start(ann, thread_id, made["assistant_id"], input={"text": SECRET})
    assert SECRET in str(join(ann, run))
    cron = ann.post(
        "/runs/crons",
        json={
            "assistant_id": made["assistant_id"],
            "schedule": "0 0 1 1 *",
            "input": {"text": SECRET},
            "metadata": {"note": SECRET},
        },
    ).json()
    item = {**ITEM, "value": {"note": SECRET}}
    assert ann.put("/store/items", json=item).status_code == 204
    state = ann.get(f"/threads/{thread_id}/state").json()
    return World(
        thread_id, run["run_id"], made["assistant_id"], cron["cron_id"], state["checkpoint_id"]
    )


@pytest.fixture(scope="package")
def world(guarded: Deployment) -> World:
    """What nobody may change."""
    with guarded.client(token="ann") as ann:
        return make_world(ann)


def fill(value: Any, world: World) -> Any:
    """Put ids where their names stand."""
    if isinstance(value, dict):
        return {key: fill(one, world) for key, one in value.items()}
    if isinstance(value, list):
        return [fill(one, world) for one in value]
    if isinstance(value, str):
        for name in ("thread_id", "run_id", "assistant_id", "cron_id", "checkpoint_id"):
            value = value.replace(f"{{{name}}}", getattr(world, name))
        return value.replace("{namespace}", "nested")
    return value


def send(client: httpx.Client, route: str, world: World, **more: Any) -> tuple[int, str]:
    """Make a request: its status, and what is read of the answer."""
    method, path = route.split(" ")
    request = REQUESTS[route]
    options = {"json": fill(request.body, world)} if request.body is not None else {}
    url = fill(path, world) + request.query
    with client.stream(method, url, **{**options, **more}) as response:
        is_hers = client.headers.get("authorization") != "Bearer bob"
        if route in ENDLESS and is_hers and response.status_code == 200:
            return 200, ""
        return response.status_code, response.read().decode()


def routes_of(deployment: Deployment) -> Iterator[str]:
    """What the server's own description names."""
    with deployment.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method in operations:
            yield f"{method.upper()} {path}"


def snapshot(deployment: Deployment, world: World) -> str:
    """All that is ann's, as text."""
    tables = {
        "assistant": f"assistant_id = '{world.assistant_id}'",
        "assistant_version": f"assistant_id = '{world.assistant_id}'",
        "thread": f"thread_id = '{world.thread_id}'",
        "thread_state": f"thread_id = '{world.thread_id}'",
        "run": f"thread_id = '{world.thread_id}'",
        "cron": f"cron_id = '{world.cron_id}' OR thread_id = '{world.thread_id}'",
        "checkpoints": f"thread_id = '{world.thread_id}'",
        "checkpoint_blobs": f"thread_id = '{world.thread_id}'",
        "store": "prefix LIKE 'ann.%'",
    }
    parts = [
        deployment.value(
            # That numbered events are made once somebody asks for them changes nothing of hers.
            "SELECT coalesce(string_agg(row, ';' ORDER BY row), '') FROM ("
            f"SELECT CAST(to_jsonb(t) - 'event_seq' AS text) AS row FROM {table} AS t "
            f"WHERE {where}) AS shown"
        )
        for table, where in tables.items()
    ]
    assert all(parts)
    return "\n".join(parts)


def test_every_route_stands_in_the_table(guarded: Deployment) -> None:
    """Who adds a route says here what others may get from it."""
    assert set(routes_of(guarded)) == set(REQUESTS) | OPEN


@pytest.mark.parametrize("route", REQUESTS)
def test_ann_may(guarded: Deployment, ann: httpx.Client, route: str) -> None:
    """So that a refusal of others below means what it seems to."""
    world = make_world(ann)
    status, _ = send(ann, route, world)
    assert status == REQUESTS[route].answer


@pytest.mark.parametrize("token", [None, "mallory", "ann x"])
@pytest.mark.parametrize("route", REQUESTS)
def test_nobody_gets_in(guarded: Deployment, world: World, route: str, token: str | None) -> None:
    """Without a token, or with a wrong one: 401, whether the request makes sense or not."""
    before = snapshot(guarded, world)
    with guarded.client(token=token) as client:
        status, answer = send(client, route, world)
        garbage, _ = send(client, route, world, content=b"{", json=None)
        absent, _ = send(client, route, World(*(str(uuid4()) for _ in range(5))))
    assert (status, garbage, absent) == (401, 401, 401)
    assert SECRET not in answer
    assert snapshot(guarded, world) == before


@pytest.mark.parametrize("route", REQUESTS)
def test_another_tenant_sees_and_changes_nothing(
    guarded: Deployment, bob: httpx.Client, world: World, route: str
) -> None:
    """What is not bob's is not there, and he cannot tell it from what never was."""
    before = snapshot(guarded, world)
    status, answer = send(bob, route, world)
    assert status in REQUESTS[route].others, answer
    said_by_bob = answer if SECRET not in str(REQUESTS[route].body) else ""
    assert SECRET not in said_by_bob
    assert world.thread_id not in without_own_path(answer, world)
    assert snapshot(guarded, world) == before
    if 404 in REQUESTS[route].others and "if_not_exists" not in str(REQUESTS[route].body):
        absent = World(*(str(uuid4()) for _ in range(5)))
        _, unknown = send(bob, route, absent)
        assert neutral(answer) == neutral(unknown)


@pytest.mark.parametrize("route", REQUESTS)
def test_a_reader_changes_nothing(
    guarded: Deployment, reader: httpx.Client, world: World, route: str
) -> None:
    """Whoever may only read gets what there is to read, and 403 for everything else."""
    before = snapshot(guarded, world)
    request = REQUESTS[route]
    status, answer = send(reader, route, world)
    assert status == (403 if request.writes else request.answer), answer
    assert snapshot(guarded, world) == before


@pytest.mark.parametrize("route", sorted(OPEN))
def test_what_is_open_tells_nothing(guarded: Deployment, world: World, route: str) -> None:
    """Health and figures need no token, and say nothing about what is whose."""
    with guarded.client() as client:
        answer = client.get(route.removeprefix("GET "))
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert not re.search(world.thread_id, answer.text)


def without_own_path(answer: str, world: World) -> str:
    """An answer without the sentence that repeats the id that was asked for."""
    return re.sub(rf"(ID |ID '|Assistant |Cron '){UUID}", "", answer)


UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def neutral(answer: str) -> str:
    """An answer without ids, so that two about different ones can be compared."""
    return re.sub(UUID, "<id>", answer)


def test_two_threads_are_two_tenants(bob: httpx.Client, ann: httpx.Client) -> None:
    """Each finds their own, by search and by count, and can tell the number of no one else's."""
    note = str(uuid4())
    for client, times in ((ann, 2), (bob, 1)):
        for _ in range(times):
            client.post("/threads", json={"metadata": {"batch": note}})
    for client, times in ((ann, 2), (bob, 1)):
        query = {"metadata": {"batch": note}}
        found = client.post("/threads/search", json=query)
        assert len(found.json()) == times
        assert found.headers["x-pagination-total"] == str(times)
        assert client.post("/threads/count", json=query).json() == times
    assert new_thread(ann) != new_thread(bob)
