"""Checkpoints that are committed with the end of their run, and what happens when that fails."""

import asyncio
import operator
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph
from tests.deployment import until
from tests.workers.test_checkpointer import claim_new, open_store, pointer
from typing_extensions import TypedDict

from greenroom.database.engine import Database
from greenroom.errors import LeaseLost
from greenroom.graphs.checkpointer import FencedSaver
from greenroom.graphs.group_commit import CheckpointStore
from greenroom.graphs.held import LARGEST_BYTES
from greenroom.queue import life
from greenroom.queue.admission import cancel_runs
from greenroom.queue.life import Checkpoints, Lease, Outcome
from greenroom.queue.states import CancelAction, RunStatus

STORED = """
SELECT (SELECT count(*) FROM checkpoints WHERE thread_id = %(thread)s),
       (SELECT count(*) FROM checkpoint_blobs WHERE thread_id = %(thread)s),
       (SELECT count(*) FROM checkpoint_writes WHERE thread_id = %(thread)s)
"""


class Trail(TypedDict, total=False):
    """Values of every kind that a checkpoint lays out in its own way."""

    number: int
    things: Annotated[list[Any], operator.add]
    nothing: Any


def graph_on(saver: FencedSaver) -> Any:
    """Two steps."""
    graph = StateGraph(Trail).add_node("one", lambda _: {"things": [{"b": b"\x00\xff"}]})
    graph.add_node("two", lambda _: {"things": ["a\x00b"], "number": 2, "nothing": None})
    graph.add_edge(START, "one").add_edge("one", "two").add_edge("two", END)
    return graph.compile(checkpointer=saver)


@pytest.fixture
async def store(database_uri: str) -> AsyncIterator[CheckpointStore]:
    """A checkpoint store on the test's loop."""
    async with open_store(database_uri) as opened:
        yield opened


def stored(database: Database, lease: Lease) -> tuple[int, ...]:
    """How many checkpoints, blobs and writes a thread has."""
    with database.statement() as connection:
        row = connection.exec_driver_sql(STORED, {"thread": str(lease.thread_id)}).one()
    return tuple(row)


def status(database: Database, lease: Lease) -> str:
    with database.statement() as connection:
        found = connection.exec_driver_sql(
            "SELECT status FROM run WHERE run_id = %s", (lease.run_id,)
        ).scalar_one()
    return str(found)


def ending(database: Database, lease: Lease, asked: list[bool]) -> Callable[..., bool]:
    """The end of a run; tells whether it was asked to take checkpoints along."""

    def end(checkpoints: Checkpoints | None) -> bool:
        asked.append(checkpoints is not None)
        outcome = Outcome(RunStatus.SUCCESS, "idle")
        with database.direct() as connection:
            ended = life.finish_run_if_owned(
                connection,
                lease,
                outcome,
                cancel_action=None,
                is_temporary=False,
                checkpoints=checkpoints,
            )
        return ended is not None

    return end


def held_saver(store: CheckpointStore, lease: Lease) -> FencedSaver:
    return FencedSaver(store, lease, is_blank=True, awaits_commits=False, may_hold=True)


async def put(saver: FencedSaver, lease: Lease, **values: Any) -> None:
    """One checkpoint."""
    checkpoint = {**empty_checkpoint(), "channel_values": values}
    versions: Any = dict.fromkeys(values, "1")
    checkpoint["channel_versions"] = versions
    await saver.aput(pointer(lease.thread_id), checkpoint, {}, versions)  # type: ignore[arg-type]


async def test_a_short_run_is_committed_with_its_end(
    database: Database, store: CheckpointStore
) -> None:
    """Nothing is written before; afterwards everything is there, as a group would have written."""
    lease, other = claim_new(database), claim_new(database)
    saver, asked = held_saver(store, lease), list[bool]()
    graph, given = graph_on(saver), {"number": 1, "things": []}
    values = await graph.ainvoke(given, pointer(lease.thread_id), durability="exit")
    assert stored(database, lease) == (0, 0, 0)
    assert await saver.taken_with(ending(database, lease, asked))
    assert asked == [True]
    assert status(database, lease) == "success"

    grouped = FencedSaver(store, other, is_blank=True, awaits_commits=False)
    await graph_on(grouped).ainvoke(given, pointer(other.thread_id), durability="exit")
    await grouped.settled()
    assert stored(database, lease) == stored(database, other) > (0, 0, 0)
    read = PostgresSaver(store.reads).get_tuple(pointer(lease.thread_id))
    remembered = saver.get_tuple(pointer(lease.thread_id))
    assert read is not None
    assert remembered is not None
    assert read == remembered
    assert read.checkpoint["channel_values"] == values


async def test_what_is_held_is_written_before_long(
    database: Database, store: CheckpointStore
) -> None:
    """A run that goes on does not keep its checkpoints to itself; its last ones wait again."""
    lease, asked = claim_new(database), list[bool]()
    saver = held_saver(store, lease)
    await put(saver, lease, log=[1])
    await asyncio.to_thread(until, lambda: stored(database, lease) == (1, 1, 0))
    await put(saver, lease, log=[2], more=[3])
    assert await saver.taken_with(ending(database, lease, asked))
    assert asked == [True]
    assert stored(database, lease)[0] == 2


async def test_much_is_not_held(database: Database, store: CheckpointStore) -> None:
    """Nothing is left for the end to take along."""
    lease, asked = claim_new(database), list[bool]()
    saver = held_saver(store, lease)
    await put(saver, lease, log=["x" * (LARGEST_BYTES + 1)])
    assert await saver.taken_with(ending(database, lease, asked))
    assert asked == [False]
    assert stored(database, lease) == (1, 1, 0)


async def test_who_reads_postgres_finds_what_is_held(
    database: Database, store: CheckpointStore
) -> None:
    """A graph that asks for its history gets all of it."""
    lease = claim_new(database)
    saver = held_saver(store, lease)
    await put(saver, lease, log=[1])
    await put(saver, lease, log=[2])
    # As a run does: from another thread than the store's.
    found = await asyncio.to_thread(lambda: list(saver.list(pointer(lease.thread_id))))
    assert len(found) == 2


async def test_a_refused_end_leaves_the_checkpoints_to_a_group(
    database: Database, store: CheckpointStore
) -> None:
    """Somebody has asked to cancel the run: it has not ended, and goes on to have checkpoints."""
    lease, asked = claim_new(database), list[bool]()
    saver = held_saver(store, lease)
    await put(saver, lease, log=[1])
    with database.transaction() as connection:
        cancel_runs(connection, lease.thread_id, [lease.run_id], CancelAction.INTERRUPT)
    assert not await saver.taken_with(ending(database, lease, asked))
    assert asked == [True, False]
    assert status(database, lease) == "running"
    assert stored(database, lease) == (1, 1, 0)


async def test_a_lost_lease_refuses_the_end_and_its_checkpoints(
    database: Database, store: CheckpointStore
) -> None:
    """The run is somebody else's."""
    lease, asked = claim_new(database), list[bool]()
    saver = held_saver(store, lease)
    await put(saver, lease, log=[1])
    with database.statement() as connection:
        life.release_run(connection, lease, delay_seconds=3600, is_charged=False)
    with pytest.raises(LeaseLost):
        await saver.taken_with(ending(database, lease, asked))
    assert asked == [True]
    assert status(database, lease) == "pending"
    assert stored(database, lease) == (0, 0, 0)


async def test_a_checkpoint_that_failed_does_not_keep_a_run_from_its_end(
    database: Database, store: CheckpointStore
) -> None:
    """Those that end a broken-off run have nobody to tell."""
    lease, asked = claim_new(database), list[bool]()
    saver = held_saver(store, lease)
    await saver.aput_writes(pointer(lease.thread_id, checkpoint_id="1"), [("\x00", [1])], "task")
    with pytest.raises(Exception, match=r"NUL|\\u0000|0x00"):
        await saver.settled()
    assert await saver.taken_with(ending(database, lease, asked))
    assert asked == [False]
    assert stored(database, lease) == (0, 0, 0)
