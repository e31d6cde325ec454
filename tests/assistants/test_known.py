"""Runs are made from the assistant as it is, whichever process has seen which version of it."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment, new_thread

from greenroom.assistants.known import MOST_KEPT, KnownAssistants


@pytest.fixture(scope="module")
def webs(server: Deployment) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two web processes of one deployment."""
    with server.client() as first, server.client(server.start_web()) as second:
        yield first, second


def create(http: httpx.Client) -> str:
    """Create an assistant."""
    body = {"graph_id": "echo", "context": {"version": 1}}
    assistant_id: str = (
        http.post("/assistants", json=body).raise_for_status().json()["assistant_id"]
    )
    return assistant_id


def context_of_run(http: httpx.Client, assistant_id: str) -> object:
    """Create a run that will not start for now; what it took from its assistant."""
    body = {"assistant_id": assistant_id, "after_seconds": 3600}
    run = http.post(f"/threads/{new_thread(http)}/runs", json=body).raise_for_status().json()
    return context_of(http, run)


def context_of(http: httpx.Client, run: dict[str, Any]) -> object:
    """What a run took from its assistant; the run goes."""
    http.delete(f"/threads/{run['thread_id']}/runs/{run['run_id']}").raise_for_status()
    return run["kwargs"]["context"]["version"]


def test_a_change_counts_for_the_next_run_everywhere(
    webs: tuple[httpx.Client, httpx.Client],
) -> None:
    """The process that did not make the change has an old copy, and finds out."""
    one, other = webs
    assistant_id = create(one)
    for version in (1, 2, 3):
        assert context_of_run(one, assistant_id) == version
        assert context_of_run(other, assistant_id) == version
        change = {"context": {"version": version + 1}}
        other.patch(f"/assistants/{assistant_id}", json=change).raise_for_status()


def test_every_way_to_make_a_run_finds_out(webs: tuple[httpx.Client, httpx.Client]) -> None:
    """Batches, repeated requests and strategies let runs in on ways of their own."""
    one, other = webs
    assistant_id = create(one)
    body = {"assistant_id": assistant_id, "after_seconds": 3600}
    path = f"/threads/{new_thread(one)}/runs"
    version = 1

    def change() -> int:
        change = {"context": {"version": version + 1}}
        other.patch(f"/assistants/{assistant_id}", json=change).raise_for_status()
        return version + 1

    assert context_of_run(one, assistant_id) == version
    version = change()
    made = one.post("/runs/batch", json=[body, body]).raise_for_status().json()
    assert [context_of(one, run) for run in made] == [version, version]
    version = change()
    headers = {"idempotency-key": str(uuid4())}
    run = one.post(path, json=body, headers=headers).raise_for_status().json()
    assert context_of(one, run) == version
    version = change()
    asked = {**body, "multitask_strategy": "interrupt"}
    run = one.post(path, json=asked).raise_for_status().json()
    assert context_of(one, run) == version


def test_a_deleted_assistant_is_gone_everywhere(webs: tuple[httpx.Client, httpx.Client]) -> None:
    """A process that has a copy answers as one that has none."""
    one, other = webs
    assistant_id = create(one)
    assert context_of_run(one, assistant_id) == 1
    other.delete(f"/assistants/{assistant_id}").raise_for_status()
    body = {"assistant_id": assistant_id}
    answer = one.post(f"/threads/{new_thread(one)}/runs", json=body)
    assert answer.status_code == 404


def test_what_is_kept_is_bounded(server: Deployment) -> None:
    """The oldest make room."""
    known = KnownAssistants(server.database)
    with server.client() as http:
        wanted = create(http)
    assert known.find(wanted) is known.find(wanted)
    for number in range(MOST_KEPT):
        found = known.find(wanted)
        assert found is not None
        known.keep(str(number), found)
    assert known.find(wanted) is not found
