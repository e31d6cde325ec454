"""User code is hostile weather: it ends its own run alone, and the owner is told."""

from itertools import islice
from pathlib import Path

import httpx
import pytest
from deployment import Deployment, events_of, get, join, new_thread, start, until


def test_a_blocking_node_delays_neither_other_runs_nor_the_api(
    server: Deployment, http: httpx.Client, tmp_path: Path
) -> None:
    """While async code blocks its loop, another run starts and ends and /ok answers."""
    gate = tmp_path / "gate"
    stuck = start(http, new_thread(http), "blocking", input={"path": str(gate)})
    until(lambda: get(http, stuck)["status"] == "running")
    waited = http.post("/runs/wait", json={"assistant_id": "echo", "input": {"text": "x"}})
    assert waited.json()["trail"] == ["x"]
    assert http.get("/ok").json()["ok"] is True
    assert get(http, stuck)["status"] == "running"
    gate.touch()
    assert join(http, stuck)["trail"] == ["done"]


@pytest.mark.parametrize(
    ("kind", "error"), [("exit", "SystemExit"), ("raise", "Odd"), ("unserialisable", "TypeError")]
)
def test_a_node_that_misbehaves_ends_its_run_with_an_error(
    server: Deployment, http: httpx.Client, kind: str, error: str
) -> None:
    """The class of the failure reaches the client; the worker goes on."""
    run = start(http, new_thread(http), "hostile", input={"kind": kind})
    answer = join(http, run)
    assert answer["__error__"]["error"] == error
    assert get(http, run)["status"] == "error"
    assert run["run_id"] in server.log.read_text()
    waited = http.post("/runs/wait", json={"assistant_id": "echo", "input": {"text": "x"}})
    assert waited.json()["trail"] == ["x"]


def test_the_text_of_a_private_error_stays_in_the_log(
    server: Deployment, http: httpx.Client
) -> None:
    """Messages of arbitrary exceptions may hold secrets: clients get the class alone."""
    run = start(http, new_thread(http), "hostile", input={"kind": "raise"})
    assert "hunter2" not in str(join(http, run))
    assert "hunter2" in server.log.read_text()


def test_nul_and_lone_surrogates_go_through_a_run(http: httpx.Client) -> None:
    """Text that Postgres cannot hold comes back with the replacement character, in and out."""
    thread_id = new_thread(http)
    body = (
        b'{"assistant_id":"echo","input":{"text":"a\\u0000b\\ud800c"},"metadata":{"m":"\\u0000"}}'
    )
    answer = http.post(
        f"/threads/{thread_id}/runs/wait",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.json()["trail"] == ["a\ufffdb\ufffdc"]
    assert http.get(f"/threads/{thread_id}").json()["values"]["text"] == "a\ufffdb\ufffdc"
    run = start(http, new_thread(http), "hostile", input={"kind": "text"})
    values = join(http, run)
    assert get(http, run)["status"] == "success"
    assert values["text"].startswith("a")
    assert len(values["trail"]) == 3


def test_cancelling_a_run_that_blocks_ends_it_once_it_lets_go(
    server: Deployment, http: httpx.Client, tmp_path: Path
) -> None:
    """Python cannot break into blocked code: the wish is kept, and honoured at the first chance."""
    gate = tmp_path / "gate"
    run = start(http, new_thread(http), "blocking", input={"path": str(gate)})
    until(lambda: get(http, run)["status"] == "running")
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel"
    assert http.post(path).status_code == 202
    gate.touch()
    until(lambda: get(http, run)["status"] == "interrupted")


def test_a_graph_that_swallows_its_cancellation_loses_its_run(
    server: Deployment, http: httpx.Client, tmp_path: Path
) -> None:
    """The run ends without its graph, and the worker goes on."""
    gate = tmp_path / "gate"
    body = {
        "assistant_id": "clinging",
        "input": {"path": str(gate)},
        "stream_mode": "custom",
    }
    thread_id = new_thread(http)
    path = f"/threads/{thread_id}/runs/stream"
    with http.stream("POST", path, json=body) as response, server.client() as own:
        place = response.headers["content-location"]
        assert "custom" in [name for name, _, _ in islice(events_of(response), 2)]
        assert own.post(f"{place}/cancel").status_code == 202
        until(lambda: own.get(place).json()["status"] == "interrupted", 60)
    gate.touch()
    waited = http.post("/runs/wait", json={"assistant_id": "echo", "input": {"text": "x"}})
    assert waited.json()["trail"] == ["x"]
    server.assert_consistent(unforked=[thread_id])


def test_sys_exit_in_a_resumable_run_is_part_of_its_replay(http: httpx.Client) -> None:
    """The last event is the error, numbered after those before it."""
    thread_id = new_thread(http)
    body = {
        "assistant_id": "hostile",
        "input": {"kind": "exit"},
        "stream_mode": "values",
        "stream_resumable": True,
    }
    with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
        path = response.headers["location"]
        whole = list(events_of(response))
    names = [name for name, _, _ in whole]
    assert (names[0], names[-1], names.count("error")) == ("metadata", "error", 1)
    with http.stream("GET", path, headers={"last-event-id": "-1"}) as response:
        assert list(events_of(response)) == whole
