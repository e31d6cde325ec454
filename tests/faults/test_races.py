"""Requests that race one another on one thread, and cancels that race the end."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from deployment import Deployment, get, join, new_thread, start, until


def test_fifty_posts_on_one_thread_never_run_two_at_once(
    server: Deployment, http: httpx.Client, tmp_path: Path
) -> None:
    """The node fails if it ever meets another run of its thread; all runs succeed, in order."""
    thread_id = new_thread(http)
    body = {"input": {"path": str(tmp_path / "lock")}}
    with ThreadPoolExecutor(50) as pool:
        runs = list(pool.map(lambda _: start(http, thread_id, "exclusive", **body), range(50)))
    assert len(join(http, max(runs, key=lambda run: run["run_id"]))["trail"]) >= 1
    until(lambda: http.get(f"/threads/{thread_id}").json()["status"] == "idle")
    assert {get(http, run)["status"] for run in runs} == {"success"}
    assert len(http.get(f"/threads/{thread_id}/state").json()["values"]["trail"]) == 50


def test_a_cancel_that_races_the_end_has_one_winner(server: Deployment, http: httpx.Client) -> None:
    """202 means interrupted, 404 means that the run was over; never both, never a busy thread."""

    def race(number: int) -> tuple[int, str]:
        with server.client() as own:
            run = start(own, new_thread(own), "echo", input={"text": str(number)})
            path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel"
            status = own.post(path).status_code
            until(lambda: get(own, run)["status"] not in {"pending", "running"})
            thread = own.get(f"/threads/{run['thread_id']}").json()
            assert thread["status"] in {"idle", "interrupted"}
            return status, get(own, run)["status"]

    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(race, range(80)))
    assert seen <= {(202, "interrupted"), (404, "success")}
    server.assert_consistent()


def test_interrupting_and_rolling_back_under_fire_leaves_one_survivor(
    server: Deployment, http: httpx.Client
) -> None:
    """Runs that push one another aside end once each; the last one wins."""
    thread_id = new_thread(http)
    strategies = ["interrupt", "rollback", "enqueue", "interrupt", "rollback"] * 4

    def push(strategy: str) -> dict[str, Any]:
        body = {"input": {"n": 3, "seconds": 0.02}, "multitask_strategy": strategy}
        return start(http, thread_id, "steps", **body)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(push, strategies))
    last = push("interrupt")
    join(http, last)
    assert get(http, last)["status"] == "success"
    statuses = {run["status"] for run in http.get(f"/threads/{thread_id}/runs").json()}
    assert statuses <= {"success", "interrupted"}
    assert http.get(f"/threads/{thread_id}").json()["status"] == "idle"


def test_two_resumes_at_once_answer_one_interrupt_once(
    server: Deployment, http: httpx.Client
) -> None:
    """The first resume finishes the run; the second finds nothing to resume and changes nothing."""
    thread_id = new_thread(http)
    join(http, start(http, thread_id, "ask", input={"text": "go?"}))
    with ThreadPoolExecutor(2) as pool:
        runs = list(
            pool.map(
                lambda answer: start(http, thread_id, "ask", command={"resume": answer}),
                ["yes", "no"],
            )
        )
    for run in runs:
        join(http, run)
    assert {get(http, run)["status"] for run in runs} == {"success"}
    trail = http.get(f"/threads/{thread_id}/state").json()["values"]["trail"]
    assert trail in (["yes"], ["no"])
