"""A state update and runs never work on one thread at once."""

import threading
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from greenroom import wire
from greenroom.database.engine import Database
from greenroom.errors import Conflict, ThreadBusy, ThreadNotFound
from greenroom.identifiers import new_id
from greenroom.queue import life
from greenroom.queue.admission import Admitted, NewRun, admit_run, cancel_active
from greenroom.queue.states import CancelAction
from greenroom.threads import service
from greenroom.threads.schemas import ThreadCreate
from greenroom.threads.slot import give_back, take_slot

LEFT = {"status": "interrupted", "values": {"n": 1}, "interrupts": {"t": []}}


@pytest.fixture
def thread_id(database: Database) -> UUID:
    made, _ = service.create(database, ThreadCreate())
    found: UUID = made["thread_id"]
    return found


def admit(database: Database, thread_id: UUID, strategy: str = "enqueue") -> Admitted:
    run = NewRun(new_id(), thread_id, uuid4(), "one", strategy, {}, b"{}", {})
    with database.statement() as connection:
        return admit_run(connection, run)


def show(database: Database, thread_id: UUID) -> dict[str, object]:
    shown: dict[str, object] = wire.loads(wire.dumps(service.get(database, thread_id)))
    return shown


def test_an_update_shows_on_the_thread_and_leaves_nothing_else(
    database: Database, thread_id: UUID, rows_of: Callable[[UUID], dict[str, int]]
) -> None:
    """Status, values and interrupts follow; the error of a run before is gone."""
    before = show(database, thread_id)
    slot = take_slot(database, thread_id, "one")
    assert not give_back(database, slot, LEFT)
    after = show(database, thread_id)
    assert {key: after[key] for key in LEFT} == LEFT
    assert after["error"] is None
    assert str(after["state_updated_at"]) > str(before["state_updated_at"])
    assert rows_of(thread_id)["run"] == 0


def test_an_update_that_failed_changes_nothing(database: Database, thread_id: UUID) -> None:
    """Apart from updated_at."""
    before = show(database, thread_id)
    slot = take_slot(database, thread_id, "one")
    assert not give_back(database, slot, None)
    assert {**show(database, thread_id), "updated_at": 0} == {**before, "updated_at": 0}


def test_a_run_that_comes_meanwhile_waits_and_is_next(database: Database, thread_id: UUID) -> None:
    """It is ready when the slot is given back; the thread stays busy."""
    slot = take_slot(database, thread_id, "one")
    assert not admit(database, thread_id).is_ready
    with pytest.raises(ThreadBusy):
        admit(database, thread_id, "reject")
    assert give_back(database, slot, LEFT)
    shown = show(database, thread_id)
    assert shown["status"] == "busy"
    assert shown["values"] == {"n": 1}
    with pytest.raises(Conflict, match="in-flight runs"):
        take_slot(database, thread_id, "one")


@pytest.mark.parametrize("action", list(CancelAction))
def test_a_run_that_interrupts_waits_for_the_update_too(
    database: Database, thread_id: UUID, action: CancelAction
) -> None:
    """An update has no worker that could be told to stop."""
    slot = take_slot(database, thread_id, "one")
    with database.transaction() as connection:
        cancel_active(connection, thread_id, action)
    assert not admit(database, thread_id).is_ready
    assert give_back(database, slot, LEFT)


def test_updates_of_one_thread_wait_for_each_other(database: Database, thread_id: UUID) -> None:
    """The second takes the slot when the first has given it back."""
    first = take_slot(database, thread_id, "one")
    timer = threading.Timer(0.2, give_back, (database, first, None))
    timer.start()
    second = take_slot(database, thread_id, "one")
    timer.join()
    assert second.run_id != first.run_id
    assert not give_back(database, second, LEFT)


def test_a_thread_deleted_under_an_update_leaves_no_checkpoint(
    database: Database, thread_id: UUID, rows_of: Callable[[UUID], dict[str, int]]
) -> None:
    """What the graphs process wrote after the deletion goes, too."""
    slot = take_slot(database, thread_id, "one")
    service.delete(database, thread_id)
    with database.statement() as connection:
        connection.execute(
            text(
                "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) "
                "VALUES (:thread_id, 'c', '{}')"
            ),
            {"thread_id": str(thread_id)},
        )
    with pytest.raises(ThreadNotFound):
        give_back(database, slot, LEFT)
    assert set(rows_of(thread_id).values()) == {0}
    with pytest.raises(ThreadNotFound):
        take_slot(database, thread_id, "one")


def test_an_update_that_outlived_its_lease_does_not_touch_the_thread(
    database: Database, thread_id: UUID
) -> None:
    """The row of a dead web process is removed like a rolled back run, and the next run goes on."""
    slot = take_slot(database, thread_id, "one")
    admit(database, thread_id)
    with database.statement() as connection:
        connection.execute(
            text("UPDATE run SET lease_expires_at = now() - interval '1 s' WHERE run_id = :run_id"),
            {"run_id": slot.run_id},
        )
        returned = life.requeue_expired(connection, 3)
    assert slot.run_id in {run.run_id for run in returned}
    with database.statement() as connection:
        claim = life.claim_run(connection, "a worker", 60)
        while claim is not None and claim.lease.run_id != slot.run_id:
            claim = life.claim_run(connection, "a worker", 60)
    assert claim is not None
    assert claim.cancel_action is CancelAction.ROLLBACK
    with pytest.raises(Conflict):
        give_back(database, slot, LEFT)
    with database.transaction() as connection:
        assert life.remove_run_if_owned(connection, claim.lease)
        assert life.settle(connection, thread_id)
    assert show(database, thread_id)["values"] is None
