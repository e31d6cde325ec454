"""Requests that race one another on one thread, and cancels that race the end."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import pytest
from deployment import Deployment, get, join, new_thread, start, until
from killing import kill, lock_thread, suspend, transaction, wait_for_waiter
from ledger import Ledger
from report import Scenario
from sqlalchemy import text

Open = Callable[[int, str], Scenario]


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
    threads = []

    def race(number: int) -> tuple[int, str]:
        with server.client() as own:
            run = start(own, new_thread(own), "echo", input={"text": str(number)})
            threads.append(run["thread_id"])
            path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel"
            status = own.post(path).status_code
            until(lambda: get(own, run)["status"] not in {"pending", "running"})
            thread = own.get(f"/threads/{run['thread_id']}").json()
            assert thread["status"] in {"idle", "interrupted"}
            return status, get(own, run)["status"]

    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(race, range(80)))
    assert seen <= {(202, "interrupted"), (404, "success")}
    server.assert_consistent(unforked=threads)


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


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
def test_a_cancel_that_races_the_claim_is_kept(
    deployment: Deployment, scenario: Open, ledger: Ledger, is_full: bool, action: str
) -> None:
    """Whoever is told 202 finds the run stopped for ever; whoever comes too late is told 404."""
    one = scenario(9, f"cancel races claim and end: {action}")
    deployment.start_web()
    deployment.start_worker()
    deployment.start_worker()

    def race(number: int) -> tuple[int, str]:
        thread_id = new_thread(http)
        run = start(http, thread_id, "echo", input={"text": str(number)})
        time.sleep(random.uniform(0, 0.03))
        path = f"/threads/{thread_id}/runs/{run['run_id']}"
        status = http.post(f"{path}/cancel?action={action}").status_code
        until(lambda: http.get(f"/threads/{thread_id}").json()["status"] != "busy")
        answer = http.get(path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            assert http.get(f"/threads/{thread_id}/history").json() == []
            return status, "gone"
        ledger.accept(run)
        return status, answer.json()["status"]

    one.runs = 300 if is_full else 60
    with deployment.client() as http, ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(race, range(one.runs)))
    stopped = "gone" if action == "rollback" else "interrupted"
    assert seen <= {(202, stopped), (404, "success")}
    assert (202, stopped) in seen
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
@pytest.mark.parametrize("is_first", [True, False], ids=["before the crash", "after it"])
def test_a_cancelled_run_whose_worker_dies_does_not_rise(
    deployment: Deployment, scenario: Open, ledger: Ledger, action: str, is_first: bool
) -> None:
    """The next worker ends it without running it, also when the wish came to a dead worker."""
    one = scenario(9, f"cancel {'before' if is_first else 'after'} crash: {action}")
    deployment.start_web()
    worker = deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        run = start(http, thread_id, "steps", input={"n": 20, "seconds": 0.5})
        path = f"/threads/{thread_id}/runs/{run['run_id']}"
        until(lambda: http.get(f"/threads/{thread_id}/state").json()["values"].get("trail"))
        if is_first:
            # It cannot hear the wish, nor honour it.
            suspend(worker.pid)
        else:
            kill(worker)
        assert http.post(f"{path}/cancel?action={action}").status_code == 202
        kill(worker)
        one.kills += 1
        saved = http.get(f"/threads/{thread_id}/state").json()["values"]["trail"]
        with one.recovery():
            deployment.start_worker()
            until(lambda: http.get(f"/threads/{thread_id}").json()["status"] != "busy")
        if action == "interrupt":
            assert get(http, ledger.accept(run))["status"] == "interrupted"
            assert http.get(f"/threads/{thread_id}/state").json()["values"]["trail"] == saved
        else:
            assert http.get(path).status_code == httpx.codes.NOT_FOUND
            assert http.get(f"/threads/{thread_id}/history").json() == []
        again = ledger.accept(start(http, thread_id, "echo", input={"text": "next"}))
        assert join(http, again)["trail"][-1] == "next"
    assert deployment.count_log("run started") == 2, "the cancelled run was started again"
    one.runs = 2
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def test_a_run_cancelled_between_two_attempts_does_not_rise(
    deployment: Deployment, scenario: Open, ledger: Ledger
) -> None:
    """Its retry is due, and never comes."""
    one = scenario(9, "cancel races retry")
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        with no_checkpoints(deployment):
            run = ledger.accept(start(http, thread_id, "echo", input={"text": "x"}))
            until(lambda: deployment.count_log("to be tried again") == 1)
            path = f"/threads/{thread_id}/runs/{run['run_id']}"
            assert http.post(f"{path}/cancel").status_code == 202
            assert get(http, run)["status"] == "interrupted"
            assert http.post(f"{path}/cancel").status_code == 404
        following = ledger.accept(start(http, thread_id, "echo", input={"text": "next"}))
        assert join(http, following)["trail"] == ["next"]
        late = "SELECT now() > due_at + interval '1 second' FROM run WHERE run_id::text = :run_id"
        until(lambda: deployment.value(late, run_id=run["run_id"]))
        assert get(http, run)["status"] == "interrupted"
    one.runs = 2
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def test_a_cancel_that_comes_while_the_end_is_written_has_one_winner(
    deployment: Deployment, scenario: Open, ledger: Ledger
) -> None:
    """Both wait for the thread's lock at the same time; the answers agree with the row."""
    one = scenario(9, "cancel and end wait for one lock")
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http, ThreadPoolExecutor(1) as pool:
        for cancels_first in (True, False):
            thread_id = new_thread(http)
            run = ledger.accept(start(http, thread_id, "steps", input={"n": 1, "seconds": 1}))
            path = f"/threads/{thread_id}/runs/{run['run_id']}/cancel"
            until(lambda run=run: get(http, run)["status"] == "running")
            with transaction(deployment) as connection:
                lock_thread(connection, thread_id)
                if cancels_first:
                    cancelled = pool.submit(http.post, path)
                    wait_for_waiter(deployment, "SELECT thread_id, is_temporary FROM thread")
                wait_for_waiter(deployment, "finish_run_if_owned")
                if not cancels_first:
                    cancelled = pool.submit(http.post, path)
                    wait_for_waiter(deployment, "SELECT thread_id, is_temporary FROM thread")
            until(lambda run=run: get(http, run)["status"] not in {"pending", "running"})
            expected = (202, "interrupted") if cancels_first else (404, "success")
            assert (cancelled.result().status_code, get(http, run)["status"]) == expected
            if not cancels_first:
                assert "has not finished yet" in cancelled.result().json()["detail"]
    one.runs = 2
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


@pytest.mark.parametrize(
    ("terms", "detail"),
    [
        ({"if_thread_status": "interrupted"}, "if_thread_status"),
        ({"multitask_strategy": "reject"}, "already running"),
    ],
    ids=["while it asks", "while it rests"],
)
def test_two_resumes_at_once_have_one_winner_and_the_loser_is_told(
    deployment: Deployment,
    scenario: Open,
    ledger: Ledger,
    is_full: bool,
    terms: dict[str, str],
    detail: str,
) -> None:
    """The answer of exactly one reaches the graph; 409 tells the other why its own does not."""
    one = scenario(9, f"two resumes at once, {next(iter(terms))}")
    deployment.start_web()
    deployment.start_worker()
    rounds = 20 if is_full else 8
    with deployment.client() as http, ThreadPoolExecutor(2) as pool:
        for _ in range(rounds):
            thread_id = new_thread(http)
            join(http, ledger.accept(start(http, thread_id, "ask", input={"text": "go?"})))
            together = Barrier(2)

            def resume(
                answer: str, thread_id: str = thread_id, together: Barrier = together
            ) -> httpx.Response:
                body = {"assistant_id": "ask", "command": {"resume": answer}, **terms}
                together.wait()
                return http.post(f"/threads/{thread_id}/runs", json=body)

            with holding_claims(deployment):
                answers = dict(zip(("yes", "no"), pool.map(resume, ("yes", "no")), strict=True))
            won = {word for word, answer in answers.items() if answer.status_code == 200}
            (lost,) = answers.keys() - won
            assert answers[lost].status_code == 409
            assert detail in answers[lost].json()["detail"]
            (winner,) = won
            assert join(http, ledger.accept(answers[winner].json()))["trail"] == [winner]
    one.runs = 2 * rounds
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


@contextmanager
def no_checkpoints(deployment: Deployment) -> Iterator[None]:
    """Have Postgres refuse checkpoints for a passing reason."""
    with transaction(deployment) as connection:
        connection.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE 'refused by the test' USING ERRCODE = 'serialization_failure'; END $$; "
                "CREATE TRIGGER refuse BEFORE INSERT ON checkpoints "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )
    yield
    with transaction(deployment) as connection:
        connection.execute(text("DROP TRIGGER refuse ON checkpoints; DROP FUNCTION refuse()"))


@contextmanager
def holding_claims(deployment: Deployment) -> Iterator[None]:
    """Keep what is let in from being claimed: the winner of a race is still at work at its end."""
    (worker,) = deployment.workers
    suspend(worker.pid)
    try:
        yield
    finally:
        worker.send_signal(signal.SIGCONT)
