"""Runs and threads against a model: whatever comes in whatever order, no run is lost or ends twice.

Hypothesis makes up histories of requests, workers, crashes and sweeps. Each step calls the queue's
own functions on a real database, then every row is compared with what the model expects, and with
the invariants that hold whatever the model says.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from greenroom import wire
from greenroom.config import Config, Project
from greenroom.database.engine import Database
from greenroom.database.migrate import migrate
from greenroom.errors import ThreadBusy
from greenroom.identifiers import new_id
from greenroom.queue import life
from greenroom.queue.admission import (
    Cancelled,
    NewRun,
    NewThread,
    admit_run,
    cancel_active,
    cancel_runs,
    delete_run,
)
from greenroom.queue.life import Claim, Claimant, Lease, Outcome
from greenroom.queue.states import TERMINAL, CancelAction, RunStatus
from greenroom.runs import queries as run_queries
from greenroom.threads import queries as thread_queries

MAX_ATTEMPTS = 2
"""As few as make a difference: short histories get there."""
FAR = 3600.0
"""Seconds that nobody waits for: leases and delays end when the machine says so."""
WORKERS = ("one", "two")
MOST_ACTIVE = 5
LATEST = 4
"""Of what is over, that is tried again."""
NEVER = math.inf

ROWS = text("SELECT run.*, run.xmin::text AS version FROM run ORDER BY sequence")
THREADS = text(
    "SELECT thread.thread_id, thread.status, thread_state.status AS rest FROM thread "
    "LEFT JOIN thread_state USING (thread_id)"
)
RESULTS = text("SELECT run_id, status FROM run_result")
DELIVERIES = text("SELECT run_id, count(*) FROM webhook_delivery GROUP BY run_id")
WRITERS = text("SELECT DISTINCT metadata ->> 'run_id' FROM checkpoints")
WRITE = text(
    "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint, metadata) "
    "VALUES (:thread_id, :checkpoint_id, '{\"channel_versions\": {}}', "
    "        jsonb_build_object('run_id', CAST(:run_id AS text)))"
)
EXPIRE = text(
    "UPDATE run SET lease_expires_at = now() - interval '1 second' WHERE run_id = :run_id"
)
FALL_DUE = text("UPDATE run SET due_at = now() WHERE run_id = :run_id")
EMPTY = [
    text(f"DELETE FROM {table}")
    for table in ("thread", "run_result", "webhook_delivery", "checkpoints")
]

picks = st.integers(min_value=0, max_value=MOST_ACTIVE)
actions = st.sampled_from([CancelAction.INTERRUPT, CancelAction.ROLLBACK])


@pytest.fixture(scope="module")
def own_database(database_uri: str) -> Iterator[Database]:
    """A database where no run of another test is due."""
    name = f"machine_{uuid4().hex}"
    project = Project(directory=Path(), graphs={})
    outer = Database(
        Config(database_uri=database_uri, redis_uri="redis://unused", project=project),
        pool_size=1,
        application_name="tests",
    )
    with outer.statement() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    uri = urlunsplit(urlsplit(database_uri)._replace(path=f"/{name}"))
    config = Config(database_uri=uri, redis_uri="redis://unused", project=project)
    migrate(config)
    opened = Database(config, pool_size=2, application_name="tests")
    yield opened
    opened.close()
    with outer.statement() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    outer.close()


@dataclass
class Expected:
    """A run as its row should be."""

    run_id: UUID
    thread_id: UUID
    is_temporary: bool
    has_webhook: bool
    queue_state: str | None
    due: float
    """On the machine's own clock; NEVER waits for `time_passes`."""
    turn: float
    """When it got ready for the first time: who is handed back keeps the place."""
    status: str = RunStatus.PENDING
    attempt: int = 0
    losses: int = 0
    had_company: bool = False
    is_suspect: bool = False
    token: int = 0
    wish: CancelAction | None = None
    worker: str | None = None
    is_expired: bool = False

    @property
    def is_active(self) -> bool:
        return self.status in {RunStatus.PENDING, RunStatus.RUNNING}

    @property
    def has_slot(self) -> bool:
        return self.status == RunStatus.RUNNING or self.queue_state == "ready"

    @property
    def is_due(self) -> bool:
        return self.queue_state == "ready" and self.due != NEVER

    @property
    def is_overdue(self) -> bool:
        return self.queue_state == "scheduled" and self.due != NEVER

    @property
    def has_begun(self) -> bool:
        return self.token > 0

    def wait(self, state: str, due: float) -> None:
        self.status, self.queue_state, self.due = RunStatus.PENDING, state, due
        self.worker, self.is_expired, self.had_company = None, False, False

    def end(self, status: str) -> None:
        self.status, self.queue_state, self.worker = status, None, None
        self.is_expired = False

    def row(self) -> tuple[Any, ...]:
        return (
            *(self.run_id, self.thread_id, self.status, self.queue_state, self.attempt),
            *(self.losses, self.is_suspect, self.token, self.wish, self.worker),
        )


@dataclass
class ExpectedThread:
    """A thread as its row should be; its runs are those of the machine that name it."""

    is_temporary: bool
    rest: str | None = None
    """The status in which the last run left it; None: no run has ended on it."""


@dataclass
class Ended:
    """What is kept of runs that are over, besides their rows."""

    rows: dict[UUID, Any] = field(default_factory=dict)
    """As they were when they ended, to the last column."""
    results: dict[UUID, str] = field(default_factory=dict)
    told: set[UUID] = field(default_factory=set)
    """Those whose webhook is owed its one delivery."""


class Machine(RuleBasedStateMachine):
    """Runs, threads and two workers, beside the model of them."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.runs: dict[UUID, Expected] = {}
        """In the order of their creation."""
        self.threads: dict[UUID, ExpectedThread] = {}
        self.leases: list[Lease] = []
        """Every one that was ever given."""
        self.ended = Ended()
        self.clock = 0
        self.is_sound = True
        with database.transaction() as connection:
            for statement in EMPTY:
                connection.execute(statement)

    # What people ask for.

    @precondition(lambda self: sum(run.is_active for run in self.runs.values()) < MOST_ACTIVE)
    @rule(
        pick=picks,
        place=st.sampled_from(["known", "known", "known", "known", "new", "temporary"]),
        strategy=st.sampled_from(["enqueue", "enqueue", "reject", "interrupt", "rollback"]),
        is_later=st.sampled_from([False, False, True]),
        has_webhook=st.booleans(),
    )
    def create(
        self, pick: int, place: str, strategy: str, *, is_later: bool, has_webhook: bool
    ) -> None:
        """Let a run in, under its strategy, now or later, on a thread or without one."""
        self._tick()
        kept = [key for key, thread in self.threads.items() if not thread.is_temporary]
        is_new = place != "known" or not kept
        thread_id = uuid4() if is_new else kept[pick % len(kept)]
        is_temporary = place == "temporary"
        new = NewRun(
            run_id=new_id(),
            thread_id=thread_id,
            assistant_id=uuid4(),
            graph_id="g",
            multitask_strategy=strategy,
            metadata={},
            kwargs=wire.dumps({"config": {}}),
            thread_metadata={},
            delay_seconds=FAR if is_later else 0,
            webhook="https://example.com/ended" if has_webhook else None,
        )
        brings = NewThread({}, is_temporary=is_temporary) if is_new else None
        with self.database.transaction() as connection:
            if strategy in {"interrupt", "rollback"}:
                action = CancelAction(strategy)
                active = [
                    run
                    for run in self._runs_of(thread_id)
                    if run.is_active and run.queue_state != "scheduled"
                ]
                cancelled = cancel_active(connection, thread_id, action)
                self._expect_cancelled(active, action, cancelled)
            is_busy = any(run.is_active for run in self._runs_of(thread_id))
            if strategy == "reject" and is_busy:
                with pytest.raises(ThreadBusy):
                    admit_run(connection, new, brings)
                return
            admitted = admit_run(connection, new, brings)
        state = "queued" if self._slot_of(thread_id) else "ready"
        self.threads.setdefault(thread_id, ExpectedThread(is_temporary))
        self.runs[new.run_id] = Expected(
            run_id=new.run_id,
            thread_id=thread_id,
            is_temporary=is_temporary,
            has_webhook=has_webhook,
            queue_state="scheduled" if is_later else state,
            due=NEVER if is_later else self.clock,
            turn=self.clock,
        )
        assert admitted.is_ready == (self.runs[new.run_id].queue_state == "ready")

    @precondition(lambda self: any(run.is_active for run in self.runs.values()))
    @rule(pick=picks, action=actions, has_company=st.booleans())
    def cancel(self, pick: int, action: CancelAction, *, has_company: bool) -> None:
        """Cancel a run in whatever state it is, or all runs of its thread."""
        self._tick()
        run = self._pick(pick)
        asked = self._runs_of(run.thread_id) if has_company else [run]
        with self.database.transaction() as connection:
            cancelled = cancel_runs(
                connection, run.thread_id, [one.run_id for one in asked], action
            )
        self._expect_cancelled(asked, action, cancelled)
        if cancelled.ended:
            self._settle(run.thread_id)

    @precondition(lambda self: len(self.runs) > 2)
    @rule(pick=picks)
    def delete(self, pick: int) -> None:
        """Delete a run in whatever state it is."""
        self._tick()
        run = self._pick(pick)
        with self.database.transaction() as connection:
            was_there, *_ = delete_run(connection, run.thread_id, run.run_id)
            run_queries.delete_checkpoints(connection, run.thread_id, [run.run_id])
        assert was_there
        self._forget(run)
        self._settle(run.thread_id)

    @precondition(lambda self: len(self.threads) > 2)
    @rule(pick=picks)
    def delete_thread(self, pick: int) -> None:
        """Delete a thread with all that is on it."""
        self._tick()
        thread_id = list(self.threads)[pick % len(self.threads)]
        with self.database.transaction() as connection:
            thread_queries.delete_threads(connection, [thread_id])
        self._forget_thread(thread_id)

    # What workers do.

    @precondition(lambda self: any(run.is_due for run in self.runs.values()))
    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> None:
        """Claim the first due run, and write a checkpoint for it; a suspect if nothing else is."""
        _ = self._claim(worker, is_suspect=False) or self._claim(worker, is_suspect=True)

    def _claim(self, worker: str, *, is_suspect: bool) -> Expected | None:
        self._tick()
        due = [run for run in self.runs.values() if run.is_due and run.is_suspect == is_suspect]
        with self.database.direct() as connection:
            claim = life.claim_run(connection, worker, FAR, is_suspect=is_suspect)
        if claim is None:
            assert not due
            return None
        return self._expect_claimed(claim, worker, due, is_suspect=is_suspect)

    def _expect_claimed(
        self, claim: Claim, worker: str, due: list[Expected], *, is_suspect: bool = False
    ) -> Expected:
        lease = claim.lease
        run = self.runs[lease.run_id]
        assert run in due
        order = attrgetter("due" if is_suspect else "turn")
        assert order(run) == min(order(one) for one in due)
        run.status, run.queue_state, run.worker = RunStatus.RUNNING, None, worker
        run.attempt += 1
        assert (claim.attempt, claim.cancel_action, claim.is_first) == (
            *(run.attempt, run.wish, run.token == 0),
        )
        assert lease.token > run.token
        run.token = lease.token
        self.leases.append(lease)
        if not run.is_temporary:
            with self.database.statement() as connection:
                connection.execute(
                    WRITE,
                    {
                        "thread_id": str(lease.thread_id),
                        "checkpoint_id": str(new_id()),
                        "run_id": str(lease.run_id),
                    },
                )
        return run

    @precondition(lambda self: self.leases)
    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        """Renew all that one worker believes to hold, and some that nobody holds any more."""
        self._tick()
        own = [
            lease
            for lease in self.leases
            if not self._is_current(lease) or self.runs[lease.run_id].worker == worker
        ]
        with self.database.statement() as connection:
            held = life.renew_leases(connection, own, FAR)
        current = [self.runs[lease.run_id] for lease in own if self._is_current(lease)]
        assert held == {run.run_id: run.wish for run in current}
        for run in current:
            run.is_expired = False

    @precondition(lambda self: self.leases)
    @rule(
        pick=st.integers(min_value=0, max_value=9),
        status=st.sampled_from([RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.TIMEOUT]),
        rest=st.sampled_from(["idle", "interrupted", "error"]),
        has_looked=st.booleans(),
        worker=st.sampled_from([None, *WORKERS]),
    )
    def finish(
        self, pick: int, status: RunStatus, rest: str, *, has_looked: bool, worker: str | None
    ) -> None:
        """End a run under any lease ever given, with or without the wish in its row.

        Args:
            worker: claims the next run along with it; None: nobody does.
        """
        self._end(self._pick_lease(pick), status, rest, has_looked=has_looked, worker=worker)

    @precondition(lambda self: self.leases)
    @rule(pick=st.integers(min_value=0, max_value=9), is_charged=st.booleans(), waits=st.booleans())
    def hand_back(self, pick: int, *, is_charged: bool, waits: bool) -> None:
        """Release a run: at a shutdown, or for a retry after a back-off."""
        self._tick()
        lease = self._pick_lease(pick)
        delay_seconds = FAR if waits else 0
        with self.database.statement() as connection:
            was_ours = life.release_run(
                connection, lease, delay_seconds=delay_seconds, is_charged=is_charged
            )
        assert was_ours == self._is_current(lease)
        if was_ours:
            run = self.runs[lease.run_id]
            run.wait("ready", NEVER if waits else self.clock)
            run.attempt -= not is_charged

    @precondition(lambda self: any(not self._is_current(lease) for lease in self.leases))
    @rule()
    def haunt(self) -> None:
        """Whoever held a run once tries everything again, and so do cancels of ended runs."""
        self._tick()
        stale = [lease for lease in self.leases if not self._is_current(lease)]
        self._haunt(stale[-LATEST:])

    def _haunt(self, stale: list[Lease]) -> None:
        with self.database.statement() as connection:
            assert life.renew_leases(connection, stale, FAR) == {}
            for lease in stale:
                run = self.runs.get(lease.run_id)
                assert not life.release_run(connection, lease, is_charged=False)
                assert not life.remove_run_if_owned(connection, lease)
                for wish in {None, run.wish if run is not None else None}:
                    assert not life.finish_run_if_owned(
                        connection,
                        lease,
                        Outcome(RunStatus.ERROR, "error"),
                        cancel_action=wish,
                        is_temporary=run is not None and run.is_temporary,
                    )
        for run in [run for run in self.runs.values() if not run.is_active][-LATEST:]:
            for action in CancelAction:
                with self.database.transaction() as connection:
                    assert not cancel_runs(connection, run.thread_id, [run.run_id], action)

    # What goes wrong, and what repairs it.

    @precondition(lambda self: any(run.worker for run in self.runs.values()))
    @rule(worker=st.sampled_from(WORKERS))
    def crash(self, worker: str) -> None:
        """A worker dies: all its leases run out."""
        self._tick()
        for run in self.runs.values():
            if run.worker == worker:
                self._expire(run)

    @precondition(lambda self: any(run.worker for run in self.runs.values()))
    @rule(worker=st.sampled_from(WORKERS))
    def lose(self, worker: str) -> None:
        """A worker dies, and is found dead."""
        self.crash(worker)
        self.sweep()

    @precondition(lambda self: any(run.worker for run in self.runs.values()))
    @rule(pick=picks)
    def lapse(self, pick: int) -> None:
        """One lease runs out before the others of its worker."""
        self._tick()
        held = [run for run in self.runs.values() if run.worker]
        self._expire(held[pick % len(held)])

    @precondition(lambda self: any(run.is_expired for run in self.runs.values()))
    @rule()
    def sweep(self) -> None:
        """Give lost runs back, or end those that were lost too often."""
        self._tick()
        exhausted = self._expect_sweep()
        with self.database.statement() as connection:
            life.requeue_expired(connection, MAX_ATTEMPTS)
            found = life.find_exhausted(connection, MAX_ATTEMPTS)
        assert {lease.run_id for lease, _ in found} == {run.run_id for run in exhausted}
        for lease, _ in found:
            with self.database.transaction() as connection:
                error = {"error": "WorkerLost", "message": "lost"}
                assert life.fail_exhausted_run(connection, lease, error)
                life.settle(connection, lease.thread_id)
            run = self.runs[lease.run_id]
            self._conclude(run, RunStatus.ERROR, "error")
            if self.threads[run.thread_id].is_temporary:
                self.ended.results[run.run_id] = RunStatus.ERROR
            self._settle(run.thread_id)

    @precondition(lambda self: any(run.due == NEVER for run in self.runs.values()))
    @rule(pick=picks)
    def time_passes(self, pick: int) -> None:
        """The time of a scheduled run comes, or the back-off of another is over."""
        self._tick()
        waiting = [run for run in self.runs.values() if run.queue_state and run.due == NEVER]
        if waiting:
            self._fall_due(waiting[pick % len(waiting)])

    @precondition(lambda self: any(run.is_overdue for run in self.runs.values()))
    @rule()
    def settle_due(self) -> None:
        """Scheduled runs whose time has come take their place."""
        self._tick()
        due = [run for run in self.runs.values() if run.is_overdue]
        ready = 0
        for run in sorted(due, key=lambda one: one.due):
            run.queue_state = "queued" if self._slot_of(run.thread_id) else "ready"
            run.due = run.turn = self.clock
            ready += run.queue_state == "ready"
        with self.database.statement() as connection:
            assert life.settle_due_runs(connection) == ready

    # What must hold after each step.

    @invariant()
    def every_row_is_as_expected(self) -> None:
        """The model and the database agree; a terminal row never changes again."""
        with self.database.statement() as connection:
            rows = connection.execute(ROWS).all()
            threads = connection.execute(THREADS).all()
            results = dict(connection.execute(RESULTS).all())
            deliveries = dict(connection.execute(DELIVERIES).all())
            writers = set(connection.execute(WRITERS).scalars())
        found = [
            (
                *(row.run_id, row.thread_id, row.status, row.queue_state, row.attempt),
                *(row.losses, row.is_suspect, row.lease_token, row.cancel_action, row.worker_id),
            )
            for row in rows
        ]
        assert found == [run.row() for run in self.runs.values()]
        for row in rows:
            if row.status in TERMINAL:
                assert self.ended.rows.setdefault(row.run_id, row) == row
            else:
                assert row.run_id not in self.ended.rows, "a run rose again"
        assert {row.thread_id: row.rest for row in threads} == {
            thread_id: thread.rest for thread_id, thread in self.threads.items()
        }
        assert results == self.ended.results
        assert deliveries == dict.fromkeys(self.ended.told, 1)
        assert writers <= {str(run_id) for run_id in self.runs}, "a checkpoint without its run"
        for thread in threads:
            self._check_thread(thread, [row for row in rows if row.thread_id == thread.thread_id])
        self.is_sound = True

    def _check_thread(self, thread: Any, rows: list[Any]) -> None:
        holders = [row for row in rows if row.status == "running" or row.queue_state == "ready"]
        queued = [row for row in rows if row.queue_state == "queued"]
        active = [row for row in rows if row.status in {"pending", "running"}]
        assert len(holders) <= 1, "two runs in one slot"
        assert holders or not queued, "runs wait and nobody will call them"
        assert (thread.status == "busy") == bool(active)
        if not active:
            assert thread.status == (thread.rest or "idle")

    def teardown(self) -> None:
        """From wherever the history stopped: every run comes to its end."""
        if self.is_sound:
            self._drain()

    def _drain(self) -> None:
        for worker in WORKERS:
            self.crash(worker)
        rounds = (MAX_ATTEMPTS + 1) * (len(self.runs) + 1)
        while any(run.is_active for run in self.runs.values()):
            rounds -= 1
            assert rounds, "a run can never end"
            for run in self.runs.values():
                if run.queue_state and run.due == NEVER:
                    self._fall_due(run)
            self.settle_due()
            self.sweep()
            claimed = self._claim(WORKERS[0], is_suspect=False) or self._claim(
                WORKERS[1], is_suspect=True
            )
            if claimed is not None:
                self._haunt([lease for lease in self.leases[:-1] if lease.run_id == claimed.run_id])
                if claimed.wish is not None:
                    self._end(self.leases[-1], RunStatus.SUCCESS, "idle", has_looked=False)
                self._end(self.leases[-1], RunStatus.SUCCESS, "idle", has_looked=True)
            self.every_row_is_as_expected()

    # The model's side of the transitions.

    def _tick(self) -> None:
        self.clock += 1
        self.is_sound = False

    def _pick(self, pick: int) -> Expected:
        """The active first, in which more can go wrong."""
        runs = sorted(self.runs.values(), key=lambda run: not run.is_active)
        return runs[pick % len(runs)]

    def _pick_lease(self, pick: int) -> Lease:
        """The newest first, because they are the ones that may still count."""
        return self.leases[-1 - pick % len(self.leases)]

    def _runs_of(self, thread_id: UUID) -> list[Expected]:
        return [run for run in self.runs.values() if run.thread_id == thread_id]

    def _slot_of(self, thread_id: UUID) -> Expected | None:
        return next((run for run in self._runs_of(thread_id) if run.has_slot), None)

    def _is_current(self, lease: Lease) -> bool:
        run = self.runs.get(lease.run_id)
        return run is not None and run.worker is not None and run.token == lease.token

    def _expire(self, run: Expected) -> None:
        run.is_expired = True
        with self.database.statement() as connection:
            connection.execute(EXPIRE, {"run_id": run.run_id})

    def _fall_due(self, run: Expected) -> None:
        run.due = self.clock
        with self.database.statement() as connection:
            connection.execute(FALL_DUE, {"run_id": run.run_id})

    def _end(
        self,
        lease: Lease,
        status: RunStatus,
        rest: str,
        *,
        has_looked: bool,
        worker: str | None = None,
    ) -> None:
        """As a worker ends a run: it honours the wish that it knows of."""
        self._tick()
        due = [one for one in self.runs.values() if one.is_due and not one.is_suspect]
        run = self.runs.get(lease.run_id)
        is_current = self._is_current(lease)
        wish = run.wish if run is not None and has_looked else None
        if wish is CancelAction.ROLLBACK:
            self._roll_back(lease)
            return
        if wish is CancelAction.INTERRUPT:
            status, rest = RunStatus.INTERRUPTED, "idle"
        is_temporary = run is not None and run.is_temporary
        has_webhook = run is not None and run.has_webhook
        finish = life.finish_run_and_owe if has_webhook else life.finish_run_if_owned
        with self.database.transaction() as connection:
            finished = finish(
                connection,
                lease,
                Outcome(status, rest, values=b"{}"),
                cancel_action=wish,
                is_temporary=is_temporary,
                claimant=Claimant(worker, FAR) if worker else None,
            )
        if run is None or not is_current or run.wish != wish:
            assert finished is None
            return
        assert finished is not None
        if worker and due and not is_temporary:
            # Of what was due before: the next of its own thread is not.
            assert finished.claim is not None
            self._expect_claimed(finished.claim, worker, due)
        else:
            assert finished.claim is None
        self._conclude(run, status, rest)
        if is_temporary:
            self.ended.results[run.run_id] = status
            self._forget_thread(run.thread_id)
        else:
            self._settle(run.thread_id)

    def _roll_back(self, lease: Lease) -> None:
        is_current = self._is_current(lease)
        with self.database.transaction() as connection:
            assert life.remove_run_if_owned(connection, lease) == is_current
            if is_current:
                run_queries.delete_checkpoints(connection, lease.thread_id, [lease.run_id])
                life.settle(connection, lease.thread_id)
        if is_current:
            self._forget(self.runs[lease.run_id])
            self._settle(lease.thread_id)

    def _expect_cancelled(
        self, asked: list[Expected], action: CancelAction, cancelled: Cancelled
    ) -> None:
        """A run that no worker has seen ends at once; what has begun is left to a worker."""
        ended, flagged = set(), set()
        for run in [run for run in asked if run.is_active]:
            if run.status == RunStatus.RUNNING or (
                run.has_begun and CancelAction.ROLLBACK in {action, run.wish}
            ):
                flagged.add(run.run_id)
                if run.wish is not CancelAction.ROLLBACK:
                    run.wish = action
                if run.status == RunStatus.PENDING:
                    run.due, run.is_suspect = self.clock, False
                continue
            ended.add(run.run_id)
            if action is CancelAction.ROLLBACK:
                self._forget(run)
            else:
                run.wish = action
                self._conclude(run, RunStatus.INTERRUPTED, None)
        assert (set(cancelled.ended), set(cancelled.asked)) == (ended, flagged)

    def _expect_sweep(self) -> list[Expected]:
        """Requeue what was lost; the runs that were lost too often, to be ended."""
        lost = [run for run in self.runs.values() if run.is_expired]
        company = {
            run.run_id: run.wish is None and (run.had_company or self._others_of(run))
            for run in lost
        }
        for run in lost:
            for other in self._others_of(run):
                other.had_company = True
        exhausted = []
        for run in lost:
            if company[run.run_id]:
                run.attempt -= 1
                run.losses += 1
                run.is_suspect = run.is_suspect or run.losses >= life.TOLERATED_LOSSES
            elif run.wish is not None:
                run.is_suspect = False
            elif run.attempt + run.losses >= MAX_ATTEMPTS:
                exhausted.append(run)
                continue
            run.wait("ready", self.clock)
        return exhausted

    def _others_of(self, run: Expected) -> list[Expected]:
        return [
            other for other in self.runs.values() if other.worker == run.worker and other is not run
        ]

    def _conclude(self, run: Expected, status: str, rest: str | None) -> None:
        run.end(status)
        if run.has_webhook:
            self.ended.told.add(run.run_id)
        if rest is not None:
            self.threads[run.thread_id].rest = rest

    def _settle(self, thread_id: UUID) -> None:
        """The oldest that waits takes a free slot; a temporary thread goes with its last run."""
        runs = self._runs_of(thread_id)
        queued = [run for run in runs if run.queue_state == "queued"]
        if queued and self._slot_of(thread_id) is None:
            queued[0].queue_state, queued[0].due = "ready", self.clock
            queued[0].turn = self.clock
        if self.threads[thread_id].is_temporary and not any(run.is_active for run in runs):
            self._forget_thread(thread_id)

    def _forget(self, run: Expected) -> None:
        del self.runs[run.run_id]
        if not self.threads[run.thread_id].is_temporary:
            self.ended.told.discard(run.run_id)

    def _forget_thread(self, thread_id: UUID) -> None:
        for run in self._runs_of(thread_id):
            self._forget(run)
        del self.threads[thread_id]


@pytest.mark.timeout(1500)
def test_no_history_loses_a_run_or_ends_it_twice(
    own_database: Database, pytestconfig: pytest.Config
) -> None:
    """The same histories each time; with --full many more, and others each time."""
    is_full = bool(pytestconfig.getoption("--full"))
    run_state_machine_as_test(
        lambda: Machine(own_database),
        settings=settings(
            max_examples=1500 if is_full else 60,
            stateful_step_count=40,
            derandomize=not is_full,
            # An example database would make one run depend on another.
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
