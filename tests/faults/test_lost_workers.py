"""Workers that die, and workers that are asked to go."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from enum import Enum
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from deployment import Deployment, get, join, new_thread, start, streaming, until
from killing import kill, lock_thread, suspend, transaction, wait_for_waiter
from ledger import Ledger
from report import Scenario
from sqlalchemy import Connection, text

Open = Callable[[int, str], Scenario]

STEPS = {"n": 6, "seconds": 0.2}
LAST_STEP = 5
DEFAULTS = {
    "GREENROOM_LEASE_SECONDS": "10",
    "GREENROOM_SWEEP_SECONDS": "2",
    "GREENROOM_WATCHDOG_SECONDS": "2",
}
LEASE_AND_SWEEP_SECONDS = 15
"""The promise with the default settings, and far more than the tests' own need."""
ATTEMPT = "SELECT attempt FROM run WHERE run_id = CAST(:run_id AS uuid)"
NOW = "SELECT clock_timestamp()::text"


class Moment(Enum):
    """Where a run's worker is killed: the words of the report, and the statement it waits in."""

    IN_A_NODE = ("mid-node", "")
    BEFORE_A_CHECKPOINT = ("before the first checkpoint", "INSERT INTO checkpoints")
    BEFORE_THE_END = ("between last checkpoint and end", "finish_run_if_owned")
    WITH_THE_END = ("with last checkpoint and end", "finish_run_if_owned")

    @property
    def words(self) -> str:
        return self.value[0]

    @property
    def statement(self) -> str:
        return self.value[1]

    def has_come(self, name: str, data: Any) -> bool:
        """Whether an event of the graph `steps` says that the next thing is this."""
        steps = {
            Moment.BEFORE_A_CHECKPOINT: 1,
            Moment.IN_A_NODE: 2,
            Moment.BEFORE_THE_END: LAST_STEP,
            Moment.WITH_THE_END: LAST_STEP,
        }
        return name == "custom" and data["step"] == steps[self]


def lock_checkpoints(connection: Connection) -> None:
    """Let nobody write a checkpoint."""
    connection.execute(text("LOCK TABLE checkpoints IN SHARE MODE"))


@pytest.mark.parametrize("is_machine", [False, True], ids=["process", "machine"])
@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name)
def test_a_killed_workers_run_is_finished_by_another(
    deployment: Deployment,
    scenario: Open,
    ledger: Ledger,
    is_full: bool,
    moment: Moment,
    is_machine: bool,
) -> None:
    """One end, no event twice, saved steps not repeated; what the dead one has sent is refused.

    Postgres may still hold a statement of the killed worker: it is let go after the next claim.
    A lost machine, with the default lease, is a process that stands still for ever: none of its
    connections ends, and nobody can see that it is gone.
    """
    if is_machine and not is_full:
        pytest.skip("takes as long as a default lease: only with --full")
    one = scenario(1, f"{'lost machine' if is_machine else 'kill -9 worker'} {moment.words}")
    deployment.settings |= DEFAULTS if is_machine else {}
    deployment.start_web()
    deployment.start_worker()
    deployment.start_worker()
    seen: list[tuple[str, Any, str | None]] = []
    killed: int | None = None
    killed_at = since = None
    with deployment.client() as http, ExitStack() as locks:
        thread_id = new_thread(http)
        body = {
            "assistant_id": "steps",
            "input": STEPS,
            "stream_mode": ["custom", "values"],
            "stream_resumable": True,
            # Otherwise the last checkpoint is written with the end.
            "durability": "sync" if moment is Moment.BEFORE_THE_END else "async",
        }
        if moment is Moment.BEFORE_A_CHECKPOINT:
            lock_checkpoints(locks.enter_context(transaction(deployment)))
        with streaming(http, f"/threads/{thread_id}/runs/stream", body) as events:
            for event in events:
                seen.append(event)
                name, data, _ = event
                if killed is None and moment.has_come(name, data):
                    # Before anything is asked: meanwhile the run would go on to its end.
                    if moment in {Moment.BEFORE_THE_END, Moment.WITH_THE_END}:
                        lock_thread(locks.enter_context(transaction(deployment)), thread_id)
                    (run,) = http.get(f"/threads/{thread_id}/runs").json()
                    killed = deployment.worker_of(run["run_id"])
                    if moment.statement:
                        wait_for_waiter(deployment, moment.statement)
                    since, killed_at = deployment.value(NOW), time.monotonic()
                    if is_machine:
                        suspend(killed)
                    else:
                        kill(next(one for one in deployment.workers if one.pid == killed))
                    one.kills += 1
                elif name == "metadata" and killed_at is not None:
                    one.recoveries.append(time.monotonic() - killed_at)
                    if moment.statement:
                        wait_for_waiter(deployment, moment.statement, since=since)
                    locks.close()
        ledger.accept(run, steps=STEPS["n"])
        assert get(http, run)["status"] == "success"
        assert ledger.read(http, run).ids == [event_id for _, _, event_id in seen]
    one.runs = 1
    numbers = [int(event_id.rpartition("-")[2]) for _, _, event_id in seen if event_id]
    assert numbers == list(range(len(seen))), "events are missing, or came twice"
    assert [data["attempt"] for name, data, _ in seen if name == "metadata"] == [1, 2]
    assert deployment.value(ATTEMPT, run_id=run["run_id"]) == 2
    told = [(data["step"], data["pid"]) for name, data, _ in seen if name == "custom"]
    assert [step for step, pid in told if pid == killed] != []
    if moment is Moment.BEFORE_THE_END:
        assert all(pid == killed for _, pid in told), "a saved step was repeated"
    elif moment is Moment.WITH_THE_END:
        repeated = [step for step, pid in told if pid != killed]
        assert repeated in ([], [LAST_STEP]), "a saved step was repeated"
    elif moment is Moment.IN_A_NODE:
        resumed_at = next(step for step, pid in told if pid != killed)
        assert resumed_at in {1, 2}
    for (step, pid), (following, next_pid) in pairwise(told):
        assert following == step + 1 or pid != next_pid
    assert max(one.recoveries) < LEASE_AND_SWEEP_SECONDS
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def test_all_runs_of_a_killed_worker_go_on_elsewhere(
    deployment: Deployment, scenario: Open, ledger: Ledger, is_full: bool
) -> None:
    """Stateful, resumable and stateless runs that shared a process end once each."""
    one = scenario(1, "kill -9 worker with ten runs, again and again")
    deployment.start_web()
    deployment.start_worker()
    rounds = 4 if is_full else 2
    with deployment.client() as http, ThreadPoolExecutor(10) as pool:
        runs = []
        for _ in range(5):
            body = {"input": STEPS, "stream_resumable": True, "stream_mode": "custom"}
            run = start(http, new_thread(http), "steps", **body)
            runs.append(ledger.accept(run, steps=STEPS["n"]))
        readings = [pool.submit(ledger.read, http, run, seconds=90) for run in runs]
        stateless = {"assistant_id": "steps", "input": STEPS}
        waits = [pool.submit(http.post, "/runs/wait", json=stateless) for _ in range(5)]
        for _ in range(rounds):
            victim = deployment.workers[-1]
            until(lambda pid=victim.pid: held_by(deployment, pid) or all_are_suspects(deployment))
            if not held_by(deployment, victim.pid):
                # Lost twice in company, each of them is executed apart from now on.
                break
            kill(victim)
            one.kills += 1
            with one.recovery():
                deployment.start_worker()
                until(partial(is_free_of, deployment, victim.pid))
        assert one.kills >= 2
        for wait in waits:
            assert wait.result().json()["trail"] == list(range(STEPS["n"]))
        for reading in readings:
            numbers = [int(event_id.rpartition("-")[2]) for event_id in reading.result().ids]
            assert numbers == list(range(len(numbers)))
    one.runs = 10
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def held_by(deployment: Deployment, pid: int) -> int:
    """How many runs a worker process executes."""
    query = "SELECT count(*) FROM run WHERE status = 'running' AND worker_id LIKE :owner"
    return int(deployment.value(query, owner=f"%:{pid}:%"))


def all_are_suspects(deployment: Deployment) -> bool:
    """Whether no run is left for a worker that has others beside it."""
    query = "SELECT count(*) FROM run WHERE status IN ('pending', 'running') AND NOT is_suspect"
    return not deployment.value(query)


def is_free_of(deployment: Deployment, pid: int) -> bool:
    """No run waits for this process any more."""
    return not held_by(deployment, pid)


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


@pytest.mark.parametrize("is_resumable", [True, False], ids=["resumable", "live"])
def test_a_paused_worker_cannot_write_after_its_lease(
    deployment: Deployment, scenario: Open, ledger: Ledger, is_resumable: bool
) -> None:
    """A zombie's checkpoints, status and events are refused; the new owner's stand."""
    one = scenario(5, f"SIGSTOP worker beyond its lease, {'kept' if is_resumable else 'live'} run")
    deployment.start_web()
    paused = deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        body = {
            "assistant_id": "steps",
            "input": STEPS,
            "stream_mode": "custom",
            "stream_resumable": is_resumable,
        }
        seen = []
        with streaming(http, f"/threads/{thread_id}/runs/stream", body) as events:
            for name, data, event_id in events:
                seen.append((name, data, event_id))
                if name == "custom" and data["step"] == 2 and data["pid"] == paused.pid:
                    paused_at = time.monotonic()
                    suspend(paused.pid)
                    one.kills += 1
                    deployment.start_worker()
                if name == "metadata" and data["attempt"] == 2:
                    one.recoveries.append(time.monotonic() - paused_at)
                if name == "custom" and data["step"] == 3:
                    os.kill(paused.pid, signal.SIGCONT)
        (run,) = http.get(f"/threads/{thread_id}/runs").json()
        values = join(http, run)
        ledger.accept(run, steps=STEPS["n"])
        # It goes on where it stood, finds out, and takes new work again.
        until(lambda: deployment.count_log("status=lost") == 1)
        others = [start(http, new_thread(http), "where", input={"text": ""}) for _ in range(30)]
        answers = [join(http, other) for other in others]
        assert paused.pid in {answer["trail"][0] for answer in answers}, answers
        if is_resumable:
            assert ledger.read(http, run).ids == [event_id for _, _, event_id in seen]
    one.runs = 1 + len(others)
    assert run["status"] == "success"
    assert values["trail"] == [0, 1, 2, 3, 4, 5]
    told = [(data["step"], data["pid"]) for name, data, _ in seen if name == "custom"]
    since = next(place for place, (_, pid) in enumerate(told) if pid != paused.pid)
    assert [pid for _, pid in told[since:] if pid == paused.pid] == [], "a zombie was heard"
    assert [step for step, _ in told[since:]] in ([1, 2, 3, 4, 5], [2, 3, 4, 5])
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def test_a_worker_paused_within_a_transaction_holds_up_nobody(
    deployment: Deployment, scenario: Open, ledger: Ledger
) -> None:
    """The locks of its open transaction go before long, and its own late commit is refused."""
    one = scenario(5, "SIGSTOP worker within an open transaction")
    deployment.start_web()
    paused = deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        run = start(http, thread_id, "steps", input={"n": 9, "seconds": 1})
        until(lambda: get(http, run)["status"] == "running")
        with transaction(deployment) as connection:
            # A rollback removes the run, then its checkpoints.
            lock_checkpoints(connection)
            path = f"/threads/{thread_id}/runs/{run['run_id']}"
            assert http.post(f"{path}/cancel?action=rollback").status_code == 202
            wait_for_waiter(deployment, "DELETE FROM checkpoints")
            suspend(paused.pid)
            one.kills += 1
        # From here on the paused worker's session holds the thread and the run.
        deployment.start_worker()
        with one.recovery():
            following = start(http, thread_id, "echo", input={"text": "next"})
            assert join(http, following)["trail"] == ["next"]
        os.kill(paused.pid, signal.SIGCONT)
        until(lambda: deployment.count_log("run left to its lease") == 1)
        ledger.accept(following)
        assert [one["run_id"] for one in http.get(f"/threads/{thread_id}/runs").json()] == [
            following["run_id"]
        ]
    one.runs = 2
    assert max(one.recoveries) < LEASE_AND_SWEEP_SECONDS
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())
