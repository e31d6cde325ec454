"""Cancels that meet a run between two workers, or at the very moment of its end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
from deployment import until
from sqlalchemy import text

from greenroom.database.engine import Database
from greenroom.identifiers import new_id
from greenroom.queue import life
from greenroom.queue.admission import NewRun, NewThread, admit_run, cancel_runs
from greenroom.queue.life import Finished, Lease, Outcome
from greenroom.queue.states import CancelAction, RunStatus

HOLD = text(
    "UPDATE run SET status = 'running', queue_state = NULL, worker_id = 'w', attempt = 1, "
    "       lease_token = 1, started_at = now(), lease_expires_at = now() + interval '1 hour' "
    " WHERE run_id = :run_id"
)
"""A claim of this very run: other tests leave ready ones behind."""
WAITERS = text(
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN "
    "(SELECT pid FROM pg_stat_activity WHERE application_name = 'tests')"
)
STATUS = text("SELECT status, cancel_action FROM run WHERE run_id = :run_id")
SUCCESS = Outcome(RunStatus.SUCCESS, "idle", values=b"{}")


def held_run(database: Database, *, is_temporary: bool = False) -> Lease:
    lease = Lease(new_id(), uuid4(), 1)
    run = NewRun(lease.run_id, lease.thread_id, uuid4(), "g", "enqueue", {}, b"{}", {})
    with database.transaction() as connection:
        admit_run(connection, run, NewThread({}, is_temporary=is_temporary))
        connection.execute(HOLD, {"run_id": lease.run_id})
    return lease


def status_of(database: Database, run_id: UUID) -> tuple[str, str | None] | None:
    with database.statement() as connection:
        row = connection.execute(STATUS, {"run_id": run_id}).one_or_none()
        return None if row is None else (row.status, row.cancel_action)


def cancel(database: Database, lease: Lease, action: CancelAction) -> tuple[int, int]:
    """How many ended at once, and how many were asked to."""
    with database.transaction() as connection:
        cancelled = cancel_runs(connection, lease.thread_id, [lease.run_id], action)
    return len(cancelled.ended), len(cancelled.asked)


def finish(database: Database, lease: Lease, *, is_temporary: bool) -> Finished | None:
    with database.statement() as connection:
        return life.finish_run_if_owned(
            connection, lease, SUCCESS, cancel_action=None, is_temporary=is_temporary
        )


def test_rolling_back_a_run_that_waits_for_its_next_attempt_leaves_it_to_a_worker(
    database: Database,
) -> None:
    """It has written checkpoints, which go with it; a later, lesser wish does not save them."""
    lease = held_run(database)
    with database.statement() as connection:
        life.release_run(connection, lease, delay_seconds=3600, is_charged=True)
    assert cancel(database, lease, CancelAction.ROLLBACK) == (0, 1)
    assert cancel(database, lease, CancelAction.INTERRUPT) == (0, 1)
    assert status_of(database, lease.run_id) == ("pending", "rollback")
    with database.transaction() as connection:
        # No back-off for what is not executed.
        due = text("SELECT due_at <= now() FROM run WHERE run_id = :run_id")
        assert connection.execute(due, {"run_id": lease.run_id}).scalar_one()
        connection.execute(HOLD, {"run_id": lease.run_id})
        assert life.remove_run_if_owned(connection, lease)
    assert status_of(database, lease.run_id) is None


@contextmanager
def uncommitted_cancel(database: Database, lease: Lease) -> Iterator[None]:
    """Commits at the end of the block."""
    with database.transaction() as connection:
        assert cancel_runs(
            connection, lease.thread_id, [lease.run_id], CancelAction.INTERRUPT
        ).asked
        yield


@pytest.mark.parametrize("is_temporary", [False, True])
def test_an_end_that_meets_a_cancel_under_way_gives_way_to_it(
    database: Database, *, is_temporary: bool
) -> None:
    """What commits first counts: the worker looks again, and finds the wish."""
    lease = held_run(database, is_temporary=is_temporary)
    ends: list[Finished | None] = []
    worker = threading.Thread(
        target=lambda: ends.append(finish(database, lease, is_temporary=is_temporary))
    )

    def is_waiting() -> bool:
        with database.statement() as connection:
            return bool(connection.execute(WAITERS).scalar_one())

    with uncommitted_cancel(database, lease):
        worker.start()
        until(is_waiting)
    worker.join()
    assert ends == [None]
    assert status_of(database, lease.run_id) == ("running", "interrupt")


def test_a_run_that_somebody_cancelled_meanwhile_is_not_given_up(database: Database) -> None:
    """The next worker honours the wish, however often the run was lost."""
    lease = held_run(database)
    assert cancel(database, lease, CancelAction.ROLLBACK) == (0, 1)
    with database.transaction() as connection:
        assert not life.fail_exhausted_run(connection, lease, {"error": "e", "message": "m"})
    assert status_of(database, lease.run_id) == ("running", "rollback")


def test_a_run_whose_worker_came_back_in_time_is_not_given_up(database: Database) -> None:
    """Found lost, and renewed before the sweep came to end it."""
    lease = held_run(database)
    with database.transaction() as connection:
        assert not life.fail_exhausted_run(connection, lease, {"error": "e", "message": "m"})
    assert status_of(database, lease.run_id) == ("running", None)
