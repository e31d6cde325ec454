"""Workers that die, and workers that are asked to go."""

import os
import signal

from deployment import Deployment, get, join, new_thread, start, streaming

STEPS = {"n": 6, "seconds": 0.2}


def test_a_killed_workers_run_is_finished_by_another(deployment: Deployment) -> None:
    """A run survives its worker: one end, no event twice, saved steps not repeated."""
    deployment.start_web()
    deployment.start_worker()
    deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        body = {
            "assistant_id": "steps",
            "input": STEPS,
            "stream_mode": ["custom", "values"],
            "stream_resumable": True,
        }
        seen, killed = [], None
        with streaming(http, f"/threads/{thread_id}/runs/stream", body) as events:
            for event in events:
                seen.append(event)
                name, data, _ = event
                if name == "custom" and data["step"] == 2 and killed is None:
                    killed = data["pid"]
                    os.kill(killed, signal.SIGKILL)
        (run,) = http.get(f"/threads/{thread_id}/runs").json()
        state = http.get(f"/threads/{thread_id}/state").json()
    assert run["status"] == "success"
    assert state["values"]["trail"] == [0, 1, 2, 3, 4, 5]
    ids = [event_id for _, _, event_id in seen]
    assert len(set(ids)) == len(ids), "an event came twice"
    attempts = [data["attempt"] for name, data, _ in seen if name == "metadata"]
    assert attempts == [1, 2]
    steps = [data["step"] for name, data, _ in seen if name == "custom"]
    assert steps in ([0, 1, 2, 2, 3, 4, 5], [0, 1, 2, 1, 2, 3, 4, 5])
    assert {data["pid"] for name, data, _ in seen if name == "custom"} > {killed}
    deployment.assert_consistent()


def test_sigterm_hands_a_run_back_without_charging_an_attempt(deployment: Deployment) -> None:
    """A worker that is told to stop gives its run to the next, which goes on at the last step."""
    deployment.start_web()
    leaving = deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        body = {"assistant_id": "steps", "input": STEPS, "stream_mode": "custom"}
        pids = []
        with streaming(http, f"/threads/{thread_id}/runs/stream", body) as events:
            for name, data, _ in events:
                if name == "custom":
                    pids.append(data["pid"])
                if name == "custom" and data["step"] == 1 and len(set(pids)) == 1:
                    leaving.send_signal(signal.SIGTERM)
                    assert leaving.wait(timeout=20) == 0
                    deployment.start_worker()
        (run,) = http.get(f"/threads/{thread_id}/runs").json()
        values = join(http, run)
    assert values["trail"] == [0, 1, 2, 3, 4, 5]
    assert len(set(pids)) == 2
    attempt = "SELECT attempt FROM run WHERE run_id = CAST(:run_id AS uuid)"
    assert deployment.value(attempt, run_id=run["run_id"]) == 1
    deployment.assert_consistent()


def test_a_run_that_kills_every_worker_ends_as_an_error(deployment: Deployment) -> None:
    """Poison is given up after three attempts, and the reason says why."""
    deployment.start_web()
    with deployment.client() as http:
        run = start(http, new_thread(http), "hostile", input={"kind": "die"})
        for _ in range(3):
            deployment.run_doomed_worker()
        deployment.start_worker()
        answer = join(http, run)
        assert get(http, run)["status"] == "error"
    assert answer["__error__"]["error"] == "WorkerLost"
    assert "3 attempts" in answer["__error__"]["message"]
    deployment.assert_consistent()


def test_a_paused_worker_cannot_write_after_its_lease(deployment: Deployment) -> None:
    """A zombie's checkpoints, status and events are refused; the new owner's stand."""
    deployment.start_web()
    paused = deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        body = {
            "assistant_id": "steps",
            "input": STEPS,
            "stream_mode": "custom",
            "stream_resumable": True,
        }
        seen = []
        with streaming(http, f"/threads/{thread_id}/runs/stream", body) as events:
            for name, data, event_id in events:
                seen.append((name, data, event_id))
                if name == "custom" and data["step"] == 1 and data["pid"] == paused.pid:
                    os.kill(paused.pid, signal.SIGSTOP)
                    deployment.start_worker()
                if name == "custom" and data["step"] == 4:
                    os.kill(paused.pid, signal.SIGCONT)
        (run,) = http.get(f"/threads/{thread_id}/runs").json()
        values = join(http, run)
    assert run["status"] == "success"
    assert values["trail"] == [0, 1, 2, 3, 4, 5]
    ids = [event_id for _, _, event_id in seen]
    assert len(set(ids)) == len(ids)
    deployment.assert_consistent()
