"""Workers whose clocks are wrong: everything that processes compare is Postgres's time."""

from collections.abc import Callable
from pathlib import Path

from deployment import Deployment, get, new_thread, start, until
from ledger import Ledger
from report import Scenario
from sqlalchemy import text

SKEWS = ("600", "-600")
IN_FIVE_MINUTES = "SELECT date_trunc('minute', now() + interval '5 minutes') AT TIME ZONE 'UTC'"
MAKE_DUE = """
UPDATE cron
   SET next_run_date = date_trunc('minute', now()) - make_interval(mins => 10 * :minutes)"""
ELSEWHERE = "SELECT count(*) FROM cron WHERE next_run_date AT TIME ZONE 'UTC' <> :slot"
HERE = Path(__file__).parent


def start_skewed(deployment: Deployment) -> None:
    """One worker that is ten minutes ahead, and one as much behind."""
    for skew in SKEWS:
        deployment.start_worker("skewed", SKEW_SECONDS=skew, PYTHONPATH=str(HERE))


def test_leases_do_not_depend_on_the_workers_clocks(
    deployment: Deployment, ledger: Ledger, scenario: Callable[[int, str], Scenario], is_full: bool
) -> None:
    """Runs longer than a lease keep it; those of a killed worker go on once it has run out."""
    one = scenario(10, "clocks of workers 10 minutes off: leases")
    deployment.start_web()
    start_skewed(deployment)
    with deployment.client() as http:
        body = {"input": {"n": 12, "seconds": 0.25}}
        runs = [
            ledger.accept(start(http, new_thread(http), "steps", **body), steps=12)
            for _ in range(40 if is_full else 12)
        ]
        holders = {deployment.worker_of(run["run_id"]) for run in runs[:12]}
        assert holders == {worker.pid for worker in deployment.workers}
        until(lambda: all(get(http, run)["status"] == "success" for run in runs), 60)
        assert deployment.value("SELECT max(attempt) FROM run") == 1
        assert deployment.count_log("lease expired") == 0
        for index, skew in enumerate(SKEWS):
            run = ledger.accept(start(http, new_thread(http), "steps", **body), steps=12)
            pid = deployment.worker_of(run["run_id"])
            until(lambda thread=run["thread_id"]: has_checkpoint(deployment, thread))
            killed = next(worker for worker in deployment.workers if worker.pid == pid)
            killed.kill()
            one.kills += 1
            with one.recovery():
                until(lambda run_id=run["run_id"], pid=pid: deployment.worker_of(run_id) != pid)
            if not index:
                deployment.start_worker("skewed", SKEW_SECONDS=skew, PYTHONPATH=str(HERE))
        ledger.check()
    one.runs = len(ledger.runs)
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def has_checkpoint(deployment: Deployment, thread_id: str) -> bool:
    """Whether a thread has come so far that a checkpoint shows it."""
    found: bool = deployment.value(
        "SELECT count(*) > 1 FROM checkpoints WHERE thread_id = :thread_id", thread_id=thread_id
    )
    return found


def test_a_cron_fires_once_per_slot_whatever_the_workers_clocks(
    deployment: Deployment, scenario: Callable[[int, str], Scenario], is_full: bool
) -> None:
    """A slot is due by Postgres's clock, and so is the next one.

    That one is five minutes ahead: past already for a worker whose clock is ten ahead, and beyond
    the test's end.
    """
    one = scenario(10, "clocks of workers 10 minutes off: crons")
    deployment.start_web()
    start_skewed(deployment)
    with deployment.client() as http:
        slot = deployment.value(IN_FIVE_MINUTES)
        schedule = f"{slot.minute} * * * *"
        body = {"assistant_id": "echo", "schedule": schedule, "input": {"text": "tick"}}
        for _ in range(10 if is_full else 4):
            assert http.post("/runs/crons", json=body).status_code == 200
    for minutes in range(1, 4 if is_full else 3):
        # Slots of the past, so that none is used twice and the test need not wait for a minute.
        with deployment.database.statement() as connection:
            connection.execute(text(MAKE_DUE), {"minutes": minutes})
        with one.recovery():
            until(lambda: deployment.value("SELECT min(next_run_date) > now() FROM cron"))
    fired = deployment.value("SELECT count(*) FROM cron_firing")
    assert fired == deployment.value("SELECT count(*) FROM cron") * minutes
    assert deployment.value(ELSEWHERE, slot=slot) == 0
    until(lambda: deployment.value("SELECT count(*) = :fired FROM run_result", fired=fired))
    one.runs = fired
