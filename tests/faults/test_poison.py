"""Runs that take their process down, and what becomes of their neighbours."""

from collections.abc import Callable

import httpx
from deployment import Deployment, events_of, get, join, new_thread, start, until
from ledger import Ledger
from report import Scenario

ATTEMPTS = "SELECT attempt FROM run WHERE run_id = CAST(:run_id AS uuid)"
DEATHS = "suspect took its process down"


def test_a_run_that_kills_every_worker_ends_as_an_error(
    deployment: Deployment, ledger: Ledger, scenario: Callable[[int, str], Scenario]
) -> None:
    """Poison is given up after three attempts, and the reason says why."""
    one = scenario(4, "a poison run alone on its worker")
    deployment.start_web()
    with deployment.client() as http:
        run = ledger.accept(start(http, new_thread(http), "hostile", input={"kind": "die"}))
        for _ in range(3):
            deployment.run_doomed_worker()
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
        with http.stream("GET", path) as response:
            with one.recovery():
                deployment.start_worker()
                events = list(events_of(response))
            answer = join(http, run)
        assert get(http, run)["status"] == "error"
        assert events[-1][:2] == ("error", answer["__error__"])
    assert answer["__error__"]["error"] == "WorkerLost"
    assert "3 attempts" in answer["__error__"]["message"]
    ledger.check()
    one.runs, one.kills = 1, 3


def test_poison_among_neighbours_is_found_out_and_they_are_not_charged(
    deployment: Deployment,
    ledger: Ledger,
    scenario: Callable[[int, str], Scenario],
    *,
    is_full: bool,
) -> None:
    """After two losses in company each is executed apart: the poison dies alone, the rest live."""
    one = scenario(4, "poison among neighbours on one worker")
    deployment.start_web()
    deployment.start_supervised_worker()
    count = 9 if is_full else 4
    with deployment.client() as http:
        neighbours = [steps(http, ledger, 20) for _ in range(count)]
        until(lambda: all(get(http, run)["status"] == "running" for run in neighbours))
        with one.recovery():
            poison = ledger.accept(
                start(http, new_thread(http), "hostile_loop", input={"kind": "segfault"})
            )
            answer = join(http, poison)
        for run in neighbours:
            assert len(join(http, run)["trail"]) == 20
            assert get(http, run)["status"] == "success"
            assert deployment.value(ATTEMPTS, run_id=run["run_id"]) == 1
        assert get(http, poison)["status"] == "error"
    assert answer["__error__"]["error"] == "WorkerLost"
    assert "3 attempts" in answer["__error__"]["message"]
    until(lambda: deployment.count_log(DEATHS) == 1)
    ledger.check()
    one.runs, one.kills = count + 1, 3
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def test_other_runs_go_on_while_suspects_are_executed_apart(
    deployment: Deployment, ledger: Ledger
) -> None:
    """A suspect occupies no slot of its worker, whatever it does."""
    deployment.start_web()
    deployment.start_supervised_worker()
    mark = "UPDATE run SET is_suspect = true WHERE run_id = CAST(:run_id AS uuid) RETURNING 1"
    with deployment.client() as http:
        blocker = start(http, new_thread(http), "steps", input={"n": 20, "seconds": 2})
        thread_id = blocker["thread_id"]
        suspect = ledger.accept(start(http, thread_id, "where", input={}))
        assert deployment.value(mark, run_id=suspect["run_id"]) == 1
        here = join(http, ledger.accept(start(http, new_thread(http), "where", input={})))["trail"]
        http.post(f"/threads/{thread_id}/runs/{blocker['run_id']}/cancel?wait=1")
        apart = join(http, suspect)["trail"]
    assert apart[-1] != here[0]
    ledger.check()


def steps(http: httpx.Client, ledger: Ledger, count: int) -> dict[str, object]:
    """Start a run of so many steps on a thread of its own."""
    run = start(http, new_thread(http), "steps", input={"n": count, "seconds": 0.2})
    return ledger.accept(run, steps=count)
