"""Due crons on real engines, fired by the tests themselves: once per slot, whatever happens."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from deployment import Deployment
from sqlalchemy import text

from greenroom.assistants import service as assistants
from greenroom.assistants.known import KnownAssistants
from greenroom.assistants.schemas import AssistantCreate
from greenroom.config import Config, GraphEntry, Project
from greenroom.crons import firing, service
from greenroom.crons.schemas import CronCreate, CronPatch
from greenroom.database.deployment import find_deployment
from greenroom.database.engine import Database
from greenroom.errors import NotFound
from greenroom.runs import service as runs
from greenroom.runs.preparing import prepare
from greenroom.runs.schemas import RunCreateStateful
from greenroom.signals.connection import connect
from greenroom.signals.keys import Keys
from greenroom.signals.sender import Signals
from greenroom.threads import service as threads
from greenroom.threads.schemas import ThreadCreate

PROJECT = Project(directory=Path(), graphs={"echo": GraphEntry("echo", "./graphs.py:echo")})
HOURLY = "0 * * * *"


class Scheduler:
    """What one worker's upkeep has: a connection of its own, and the way to ring."""

    def __init__(self, engines: Deployment) -> None:
        config = Config(engines.postgres.uri, engines.redis.uri, PROJECT)
        self.database = Database(config, pool_size=1, application_name="tests")
        keys = Keys("", find_deployment(self.database))
        self.signals = Signals(connect(engines.redis.uri), keys)

    def fire(self) -> int:
        """One round."""
        return firing.fire_due(self.database, self.signals, PROJECT)

    def rows(self, sql: str, **parameters: Any) -> list[Any]:
        """Run one statement; its rows."""
        with self.database.statement() as connection:
            found = connection.execute(text(sql), parameters)
            return list(found.all()) if found.returns_rows else []

    def cron(self, thread_id: UUID | None = None, **fields: Any) -> UUID:
        """Make a cron, hourly unless asked otherwise."""
        body = CronCreate(**{"assistant_id": "echo", "schedule": HOURLY, **fields})
        made: UUID = service.create(self.database, PROJECT, body, thread_id)["cron_id"]
        return made

    def thread(self) -> UUID:
        """Make a thread."""
        made, _ = threads.create(self.database, ThreadCreate())
        thread_id: UUID = made["thread_id"]
        return thread_id

    def set_due(self, cron_id: UUID, slot: datetime) -> None:
        """Move a cron's next slot."""
        self.rows(
            "UPDATE cron SET next_run_date = :slot WHERE cron_id = :id", slot=slot, id=cron_id
        )

    def runs(self, cron_id: UUID) -> list[Any]:
        """The runs that a cron has started."""
        return [
            row
            for row in self.rows("SELECT * FROM run ORDER BY sequence")
            if f'"cron_id":"{cron_id}"'.encode() in bytes(row.kwargs)
        ]

    def next_slot(self, cron_id: UUID) -> datetime | None:
        """When a cron fires next; read past its payload, which a test may have spoilt."""
        (row,) = self.rows("SELECT next_run_date FROM cron WHERE cron_id = :id", id=cron_id)
        slot: datetime | None = row.next_run_date
        return slot


@pytest.fixture(scope="module")
def scheduler(engines: Deployment) -> Iterator[Scheduler]:
    """One of them, with the system assistants in place."""
    made = Scheduler(engines)
    assistants.ensure_system_assistants(made.database, PROJECT)
    yield made
    made.database.close()


@pytest.fixture(autouse=True)
def _alone(scheduler: Scheduler) -> None:
    """No test sees another's crons."""
    scheduler.rows("DELETE FROM cron")


def slot_ago(**ago: float) -> datetime:
    return (datetime.now(UTC) - timedelta(**ago)).replace(microsecond=0)


def test_many_workers_start_one_run_per_slot(scheduler: Scheduler, engines: Deployment) -> None:
    """All at once, on crons with and without a thread: no slot is lost, none fires twice."""
    crons = [scheduler.cron() for _ in range(5)]
    crons += [scheduler.cron(scheduler.thread()) for _ in range(5)]
    workers = [Scheduler(engines) for _ in range(6)]
    start = threading.Barrier(len(workers))

    def work(worker: Scheduler) -> int:
        start.wait()
        return worker.fire()

    for cron_id in crons:
        scheduler.set_due(cron_id, slot_ago(minutes=5))
    with ThreadPoolExecutor(len(workers)) as pool:
        fired = list(pool.map(work, workers))
    # A thread that another worker had locked that moment is looked at again.
    fired.append(scheduler.fire())

    assert sum(fired) == len(crons)
    assert [len(scheduler.runs(cron_id)) for cron_id in crons] == [1] * len(crons)
    for worker in workers:
        worker.database.close()


def test_a_slot_that_was_used_starts_nothing_again(scheduler: Scheduler) -> None:
    """Even when the clock, or whoever restores a backup, brings it back."""
    cron_id, slot = scheduler.cron(), slot_ago(minutes=1)
    for _ in range(2):
        scheduler.set_due(cron_id, slot)
        scheduler.fire()

    assert len(scheduler.runs(cron_id)) == 1
    following = scheduler.next_slot(cron_id)
    assert following is not None
    assert following > slot


def test_a_worker_that_dies_at_the_edge_leaves_all_or_nothing(scheduler: Scheduler) -> None:
    """Slot, run and next slot are one transaction: lost before its end, the next worker fires."""
    cron_id = scheduler.cron()
    scheduler.set_due(cron_id, slot_ago(minutes=1))
    with pytest.raises(SystemExit), scheduler.database.transaction() as connection:
        assert firing.fire(connection, PROJECT, cron_id) is not None
        raise SystemExit
    assert scheduler.runs(cron_id) == []

    assert scheduler.fire() == 1
    assert scheduler.fire() == 0
    assert len(scheduler.runs(cron_id)) == 1


def test_after_a_downtime_a_cron_catches_up_once(scheduler: Scheduler) -> None:
    """One run for all that was missed, then the next slot after now."""
    cron_id = scheduler.cron(schedule="* * * * *")
    scheduler.set_due(cron_id, slot_ago(days=3))

    assert [scheduler.fire(), scheduler.fire()] == [1, 0]
    following = scheduler.next_slot(cron_id)
    assert following is not None
    assert timedelta(0) < following - datetime.now(UTC) <= timedelta(minutes=1)
    seconds = firing.find_next_due(scheduler.database)
    assert seconds is not None
    assert 0 < seconds <= 60


def test_a_disabled_cron_waits_and_goes_on_from_now(scheduler: Scheduler) -> None:
    """What it missed while it was off stays missed."""
    cron_id = scheduler.cron(enabled=False)
    assert scheduler.next_slot(cron_id) is not None
    scheduler.set_due(cron_id, slot_ago(days=1))
    assert scheduler.fire() == 0
    assert firing.find_next_due(scheduler.database) is None

    service.patch(scheduler.database, PROJECT, cron_id, CronPatch(enabled=True))

    following = scheduler.next_slot(cron_id)
    assert following is not None
    assert following > datetime.now(UTC)
    assert scheduler.fire() == 0


def test_nothing_starts_after_the_end(scheduler: Scheduler) -> None:
    """Neither a slot that lies after it, nor one before it that was missed."""
    over = scheduler.cron(end_time="2020-01-01T00:00:00Z")
    assert scheduler.next_slot(over) is None

    missed = scheduler.cron(end_time="2030-01-01T00:00:00Z")
    scheduler.set_due(missed, slot_ago(minutes=10))
    end = slot_ago(minutes=5)
    scheduler.rows("UPDATE cron SET end_time = :end WHERE cron_id = :id", end=end, id=missed)
    assert scheduler.fire() == 0
    assert scheduler.next_slot(missed) is None

    service.patch(scheduler.database, PROJECT, missed, CronPatch(end_time=None))
    assert scheduler.next_slot(missed) is not None


def test_the_last_slot_before_the_end_fires(scheduler: Scheduler) -> None:
    """And then there is no next one."""
    end = datetime.now(UTC) + timedelta(minutes=1)
    cron_id = scheduler.cron(schedule="0 0 1 1 *", end_time="2999-01-01T00:00:00Z")
    scheduler.set_due(cron_id, slot_ago(seconds=1))
    scheduler.rows("UPDATE cron SET end_time = :end WHERE cron_id = :id", end=end, id=cron_id)

    assert scheduler.fire() == 1
    assert scheduler.next_slot(cron_id) is None


def test_a_patch_does_not_lose_the_slot_that_is_due(scheduler: Scheduler) -> None:
    """Unless the change is about when it fires."""
    cron_id, slot = scheduler.cron(), slot_ago(seconds=1)
    scheduler.set_due(cron_id, slot)
    service.patch(
        scheduler.database,
        PROJECT,
        cron_id,
        CronPatch(metadata={"a": 1}, schedule=HOURLY, enabled=True),
    )
    assert scheduler.next_slot(cron_id) == slot

    service.patch(scheduler.database, PROJECT, cron_id, CronPatch(schedule="5 * * * *"))
    following = scheduler.next_slot(cron_id)
    assert following is not None
    assert following > datetime.now(UTC)


def lose_graph(scheduler: Scheduler) -> UUID:
    gone = Project(directory=Path(), graphs={"gone": GraphEntry("gone", "./x.py:gone")})
    body = AssistantCreate(graph_id="gone")
    assistant_id = assistants.create(scheduler.database, gone.graphs, body)["assistant_id"]
    made = CronCreate(assistant_id=str(assistant_id), schedule=HOURLY)
    cron_id: UUID = service.create(scheduler.database, gone, made, None)["cron_id"]
    return cron_id


def spoil(what: str) -> Callable[[Scheduler], UUID]:
    def make(scheduler: Scheduler) -> UUID:
        cron_id = scheduler.cron()
        scheduler.rows(f"UPDATE cron SET {what} WHERE cron_id = :id", id=cron_id)
        return cron_id

    return make


@pytest.mark.parametrize(
    "make",
    [
        lose_graph,
        spoil("payload = 'not JSON'"),
        spoil("payload = '[]'"),
        spoil("""payload = '{"config": {"configurable": {}}, "stream_mode": 3}'"""),
        spoil("schedule = 'once upon a time'"),
        spoil("timezone = 'Mars/X'"),
    ],
    ids=["graph", "encoding", "shape", "field", "schedule", "timezone"],
)
def test_a_cron_that_makes_no_run_does_not_hold_up_the_others(
    scheduler: Scheduler, make: Callable[[Scheduler], UUID]
) -> None:
    """Its slot is skipped, it is put off, and those behind it fire."""
    broken, sound = make(scheduler), scheduler.cron()
    scheduler.set_due(broken, slot_ago(hours=2))
    scheduler.set_due(sound, slot_ago(minutes=1))

    scheduler.fire()

    assert len(scheduler.runs(sound)) == 1
    following = scheduler.next_slot(broken)
    assert following is None or following > datetime.now(UTC)


def test_a_broken_cron_can_be_switched_off(scheduler: Scheduler) -> None:
    """Though it makes no run any more."""
    cron_id = lose_graph(scheduler)
    patched = service.patch(scheduler.database, PROJECT, cron_id, CronPatch(enabled=False))
    assert patched["enabled"] is False


@pytest.mark.parametrize(
    ("strategy", "statuses"),
    [
        ("reject", ["pending"]),
        ("enqueue", ["pending", "pending"]),
        ("interrupt", ["interrupted", "pending"]),
        ("rollback", ["pending"]),
    ],
)
def test_the_strategy_decides_on_a_busy_thread(
    scheduler: Scheduler, strategy: str, statuses: list[str]
) -> None:
    """A slot that is refused is skipped; the cron goes on at the next one."""
    thread_id = scheduler.thread()
    body = RunCreateStateful(assistant_id="echo")
    before = prepare(KnownAssistants(scheduler.database), PROJECT, body, thread_id)
    runs.admit(scheduler.database, scheduler.signals, before)
    cron_id = scheduler.cron(thread_id, multitask_strategy=strategy)
    scheduler.set_due(cron_id, slot_ago(minutes=1))

    assert scheduler.fire() == (0 if strategy == "reject" else 1)
    found = scheduler.rows(
        "SELECT status FROM run WHERE thread_id = :id ORDER BY sequence", id=thread_id
    )
    assert [row.status for row in found] == statuses
    following = scheduler.next_slot(cron_id)
    assert following is not None
    assert following > datetime.now(UTC)


def test_a_locked_thread_delays_its_own_cron_alone(
    scheduler: Scheduler, engines: Deployment
) -> None:
    """Firing waits for nobody: what is locked stays due until the next round."""
    thread_id = scheduler.thread()
    held, free = scheduler.cron(thread_id), scheduler.cron()
    scheduler.set_due(held, slot_ago(minutes=2))
    scheduler.set_due(free, slot_ago(minutes=1))
    with engines.database.transaction() as connection:
        lock = text("SELECT 1 FROM thread WHERE thread_id = :id FOR UPDATE")
        connection.execute(lock, {"id": thread_id})
        assert scheduler.fire() == 1
        assert len(scheduler.runs(free)) == 1
        due_seconds = firing.find_next_due(scheduler.database)
        assert due_seconds is not None
        assert due_seconds <= 0

    assert scheduler.fire() == 1
    assert len(scheduler.runs(held)) == 1


def test_a_run_knows_its_cron(scheduler: Scheduler) -> None:
    """Metadata of the cron on run and thread, its id in `configurable`, its input and config."""
    kept = scheduler.cron(
        metadata={"by": "cron"},
        input={"text": "x"},
        context={"tone": "dry"},
        config={"tags": ["t"]},
        on_run_completed="keep",
        stream_mode=["updates"],
    )
    scheduler.set_due(kept, slot_ago(minutes=1))
    scheduler.fire()

    (run,) = scheduler.runs(kept)
    (thread,) = scheduler.rows("SELECT * FROM thread WHERE thread_id = :id", id=run.thread_id)
    assert run.metadata["by"] == thread.metadata["by"] == "cron"
    assert thread.is_temporary is False
    shown = runs.get_run(scheduler.database, run.thread_id, run.run_id)["kwargs"]
    assert shown["config"]["configurable"]["cron_id"] == str(kept)
    assert shown["config"]["configurable"]["tone"] == shown["context"]["tone"] == "dry"
    assert "cron_id" not in shown["context"]
    assert shown["config"]["tags"] == ["t"]
    assert shown["input"] == {"text": "x"}
    assert shown["stream_mode"] == ["updates"]


def test_a_thread_goes_with_its_run_unless_it_is_kept(scheduler: Scheduler) -> None:
    """The default of a cron without a thread."""
    cron_id = scheduler.cron()
    scheduler.set_due(cron_id, slot_ago(minutes=1))
    scheduler.fire()
    (run,) = scheduler.runs(cron_id)
    (thread,) = scheduler.rows("SELECT * FROM thread WHERE thread_id = :id", id=run.thread_id)
    assert thread.is_temporary is True


def test_crons_go_with_what_they_belong_to(scheduler: Scheduler) -> None:
    """Their thread or their assistant; and their used slots with them."""
    thread_id = scheduler.thread()
    body = AssistantCreate(graph_id="echo")
    assistant_id = assistants.create(scheduler.database, PROJECT.graphs, body)["assistant_id"]
    crons = [scheduler.cron(thread_id), scheduler.cron(assistant_id=str(assistant_id))]
    for cron_id in crons:
        scheduler.set_due(cron_id, slot_ago(minutes=1))
    scheduler.fire()
    threads.delete(scheduler.database, thread_id)
    assistants.delete(scheduler.database, assistant_id, with_threads=False)

    for cron_id in crons:
        with pytest.raises(NotFound):
            service.get(scheduler.database, cron_id)
        used = scheduler.rows("SELECT 1 FROM cron_firing WHERE cron_id = :id", id=cron_id)
        assert used == []


def test_old_slots_are_forgotten(scheduler: Scheduler) -> None:
    """A cron of every second must not fill the disk."""
    cron_id = scheduler.cron()
    scheduler.rows(
        "INSERT INTO cron_firing SELECT :id, now() - interval '2 hours' - n * interval '1 s' "
        "FROM generate_series(1, 300) AS n",
        id=cron_id,
    )
    slot = slot_ago(minutes=1)
    scheduler.set_due(cron_id, slot)
    scheduler.fire()
    left = scheduler.rows("SELECT slot FROM cron_firing WHERE cron_id = :id", id=cron_id)
    assert [row.slot for row in left] == [slot]


def test_a_cron_of_what_is_not_there_is_not_made(scheduler: Scheduler) -> None:
    """Neither an unknown assistant nor an unknown thread."""
    for assistant in ("nope", str(uuid4())):
        with pytest.raises(NotFound, match=f"Assistant '{assistant}' not found"):
            scheduler.cron(assistant_id=assistant)
    with pytest.raises(NotFound, match="Thread with ID"):
        scheduler.cron(uuid4())
