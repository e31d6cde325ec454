"""The stream of one run, and what a client may rely on when it ends."""

import httpx
import pytest
from deployment import Deployment, events_of, get, join, new_thread, start, until


def test_a_run_is_stored_as_finished_before_its_stream_closes(http: httpx.Client) -> None:
    """Clients ask for the run when a stream closes, and reconnect if it still runs."""
    for _ in range(20):
        thread_id = new_thread(http)
        path = f"/threads/{thread_id}/runs"
        http.post(f"{path}/stream", json={"assistant_id": "echo", "input": {"text": "x"}})
        (run,) = http.get(path).json()
        assert run["status"] == "success"


def test_headers_name_the_run_before_its_first_event(
    server: Deployment, http: httpx.Client
) -> None:
    """A queued run's stream is open, with the run's place, while the run still waits."""
    thread_id = new_thread(http)
    first = start(http, thread_id, "steps", input={"n": 20, "seconds": 2})
    body = {"assistant_id": "echo", "input": {"text": "x"}}
    with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
        path = response.headers["content-location"]
        with server.client() as own:
            assert own.get(path).json()["status"] == "pending"
            own.post(f"{path}/cancel")
            assert list(events_of(response)) == []
            own.post(f"/threads/{thread_id}/runs/{first['run_id']}/cancel?wait=1")


def test_a_cancelled_queued_run_ends_its_streams_and_waits(
    server: Deployment, http: httpx.Client
) -> None:
    """No worker ever touches it: the web process itself tells who listens."""
    thread_id = new_thread(http)
    first = start(http, thread_id, "steps", input={"n": 20, "seconds": 2})
    second = start(http, thread_id, "echo", input={"text": "x"})
    path = f"/threads/{thread_id}/runs/{second['run_id']}"
    with http.stream("GET", f"{path}/stream") as response, server.client() as own:
        assert own.post(f"{path}/cancel").status_code == 202
        assert list(events_of(response)) == []
        assert get(own, second)["status"] == "interrupted"
        assert get(own, first)["status"] == "running"
        own.post(f"/threads/{thread_id}/runs/{first['run_id']}/cancel?wait=1")


@pytest.mark.parametrize("resumable", [True, False])
def test_a_reader_that_stalls_hurts_only_itself(
    server: Deployment, http: httpx.Client, *, resumable: bool
) -> None:
    """While one client of a run reads nothing, the run ends and another client sees all of it."""
    thread_id = new_thread(http)
    body = {
        "assistant_id": "steps",
        "input": {"n": 6, "seconds": 0.05},
        "stream_mode": "custom",
        "stream_resumable": resumable,
    }
    with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as stalled:
        path = stalled.headers["content-location"]
        with server.client() as own:
            run = own.get(path).json()
            until(lambda: get(own, run)["status"] == "success")
            assert join(own, run)["trail"] == [0, 1, 2, 3, 4, 5]
        steps = [data["step"] for name, data, _ in events_of(stalled) if name == "custom"]
    assert steps == [0, 1, 2, 3, 4, 5]


def test_dropping_a_stream_at_every_event_loses_nothing(http: httpx.Client) -> None:
    """A resumable run read in pieces, cut after each event in turn, is the run read in one go."""
    thread_id = new_thread(http)
    body = {
        "assistant_id": "steps",
        "input": {"n": 4},
        "stream_mode": ["custom", "updates"],
        "stream_resumable": True,
    }
    with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
        path = response.headers["location"]
        whole = list(events_of(response))
    assert len(whole) == 9
    for cut, (_, _, event_id) in enumerate(whole):
        with http.stream("GET", path, headers={"last-event-id": str(event_id)}) as response:
            assert [*whole[: cut + 1], *events_of(response)] == whole
