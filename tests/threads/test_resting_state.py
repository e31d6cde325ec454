"""A thread at rest shows its state as the last run left it, which is what the graph would say."""

from typing import Any

import httpx
import pytest
from deployment import Deployment, get, join, new_thread, start, until

SNAPSHOT = "SELECT snapshot IS NOT NULL FROM thread_state WHERE thread_id = CAST(:id AS uuid)"


def state(http: httpx.Client, thread_id: str) -> Any:
    """As clients ask for it."""
    return http.get(f"/threads/{thread_id}/state").json()


def told_by_the_graph(http: httpx.Client, thread_id: str) -> Any:
    """The same checkpoint, read in the graphs process."""
    checkpoint_id = state(http, thread_id)["checkpoint"]["checkpoint_id"]
    return http.get(f"/threads/{thread_id}/state/{checkpoint_id}").json()


@pytest.mark.parametrize(
    ("graph", "given", "status"),
    [
        ("echo", {"text": "a\x00b"}, "success"),
        ("steps", {"n": 3}, "success"),
        ("ask", {"text": "why?"}, "success"),
        ("hostile", {"kind": "raise"}, "error"),
        ("hostile", {"kind": "text"}, "success"),
    ],
)
def test_it_is_what_the_graph_says(
    server: Deployment, http: httpx.Client, graph: str, given: dict[str, Any], status: str
) -> None:
    """To the last key, and in the same order, however the run ended."""
    run = start(http, new_thread(http), graph, input=given)
    join(http, run)
    assert get(http, run)["status"] == status
    assert server.value(SNAPSHOT, id=run["thread_id"]) is True
    shown, told = state(http, run["thread_id"]), told_by_the_graph(http, run["thread_id"])
    assert shown == told
    assert list(shown) == list(told)


def test_an_update_is_shown_at_once(server: Deployment, http: httpx.Client) -> None:
    """What a run has left is not shown any more."""
    run = start(http, new_thread(http), "echo", input={"text": "x"})
    thread_id = run["thread_id"]
    join(http, run)
    body = {"values": {"trail": ["update"]}, "as_node": "node"}
    assert http.post(f"/threads/{thread_id}/state", json=body).status_code == 200
    assert server.value(SNAPSHOT, id=thread_id) is False
    assert state(http, thread_id)["values"]["trail"] == ["x", "update"]
    assert state(http, thread_id) == told_by_the_graph(http, thread_id)


def test_a_running_run_is_watched_step_by_step(http: httpx.Client) -> None:
    """While a run is active the graph is asked."""
    run = start(http, new_thread(http), "echo", input={"text": "x"})
    thread_id = run["thread_id"]
    join(http, run)
    active = start(http, thread_id, "steps", input={"n": 20, "seconds": 0.5})
    until(lambda: len(state(http, thread_id)["values"]["trail"]) >= 2)
    http.post(f"/threads/{thread_id}/runs/{active['run_id']}/cancel?wait=1")
    assert state(http, thread_id) == told_by_the_graph(http, thread_id)


def test_a_rolled_back_run_shows_what_was_before(http: httpx.Client) -> None:
    """To the checkpoint."""
    run = start(http, new_thread(http), "echo", input={"text": "x"})
    thread_id = run["thread_id"]
    join(http, run)
    before = state(http, thread_id)
    active = start(http, thread_id, "steps", input={"n": 20, "seconds": 0.5})
    until(lambda: state(http, thread_id) != before)
    path = f"/threads/{thread_id}/runs/{active['run_id']}/cancel?action=rollback&wait=1"
    assert http.post(path).status_code in {200, 204}
    assert state(http, thread_id) == before == told_by_the_graph(http, thread_id)


def test_a_copy_speaks_of_itself(http: httpx.Client) -> None:
    """Its checkpoints carry the copy's id."""
    run = start(http, new_thread(http), "echo", input={"text": "x"})
    join(http, run)
    copy = http.post(f"/threads/{run['thread_id']}/copy").json()
    shown = state(http, copy["thread_id"])
    assert shown["checkpoint"]["thread_id"] == copy["thread_id"]
    assert shown["values"] == state(http, run["thread_id"])["values"]
