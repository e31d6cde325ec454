"""The group-commit checkpointer: langgraph's own conformance suite, and the fence."""

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from typing_extensions import TypedDict

from greenroom.database.engine import Database
from greenroom.errors import LeaseLost
from greenroom.graphs.checkpointer import FencedSaver
from greenroom.graphs.group_commit import CheckpointStore
from greenroom.identifiers import new_id
from greenroom.queue.admission import NewRun, NewThread, admit_run
from greenroom.queue.life import Lease, claim_run, release_run


def claim_new(database: Database) -> Lease:
    """A run that this test holds the lease of."""
    thread_id, run_id = uuid4(), new_id()
    with database.transaction() as connection:
        run = NewRun(run_id, thread_id, uuid4(), "g", "enqueue", {}, b"{}", {})
        admit_run(connection, run, NewThread({}, is_temporary=False))
    while True:
        with database.statement() as connection:
            claim = claim_run(connection, "test", 3600)
        assert claim is not None
        if claim.lease.run_id == run_id:
            return claim.lease


@asynccontextmanager
async def open_store(database_uri: str) -> AsyncIterator[CheckpointStore]:
    """A checkpoint store on this loop."""
    options = {"autocommit": True, "row_factory": dict_row, "prepare_threshold": 0}
    async with AsyncConnectionPool(database_uri, kwargs=options, max_size=4, open=False) as pool:
        reads = ConnectionPool(database_uri, kwargs=options, max_size=4, open=True)
        store = CheckpointStore(pool, reads)
        yield store
        await store.close()
        reads.close()


def pointer(thread_id: UUID | str, **more: Any) -> Any:
    return {"configurable": {"thread_id": str(thread_id), "checkpoint_ns": "", **more}}


async def test_it_passes_langgraphs_conformance_suite(
    database: Database, database_uri: str
) -> None:
    """Everything that the base capabilities of a checkpointer promise."""
    lease = claim_new(database)

    @checkpointer_test(name="FencedSaver")
    async def make() -> AsyncIterator[FencedSaver]:
        async with open_store(database_uri) as store:
            yield FencedSaver(store, lease)

    report = await validate(make)
    assert report.passed_all_base(), report.to_dict()


async def test_a_worker_that_lost_its_lease_cannot_write(
    database: Database, database_uri: str
) -> None:
    """The fence refuses the old token, and lets the new owner of the run write."""
    old = claim_new(database)
    with database.statement() as connection:
        assert release_run(connection, old, is_charged=False)
        claim = claim_run(connection, "other", 3600)
    assert claim is not None
    assert claim.lease.run_id == old.run_id
    async with open_store(database_uri) as store:
        checkpoint = empty_checkpoint()
        with pytest.raises(LeaseLost):
            await FencedSaver(store, old).aput(pointer(old.thread_id), checkpoint, {}, {})
        with pytest.raises(LeaseLost):
            await FencedSaver(store, old).aput_writes(
                pointer(old.thread_id, checkpoint_id=checkpoint["id"]), [("c", 1)], "task"
            )
        saver = FencedSaver(store, claim.lease)
        await saver.aput(pointer(old.thread_id), checkpoint, {}, {})
        assert await saver.aget_tuple(pointer(old.thread_id)) is not None


async def test_one_runs_lost_lease_fails_nobody_else_in_the_group(
    database: Database, database_uri: str
) -> None:
    """Puts share a statement, not a fate."""
    lost, kept = claim_new(database), claim_new(database)
    with database.statement() as connection:
        release_run(connection, lost, delay_seconds=3600, is_charged=False)
    async with open_store(database_uri) as store:
        puts = [
            FencedSaver(store, lease).aput(pointer(lease.thread_id), empty_checkpoint(), {}, {})
            for lease in (lost, kept, lost, kept)
        ]
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert [isinstance(one, LeaseLost) for one in outcomes] == [True, False, True, False]


async def test_data_that_postgres_refuses_fails_its_own_put_alone(
    database: Database, database_uri: str
) -> None:
    """A channel named with a NUL cannot be stored: the neighbours are written all the same."""
    bad, good = claim_new(database), claim_new(database)
    async with open_store(database_uri) as store:
        broken = FencedSaver(store, bad).aput_writes(
            pointer(bad.thread_id, checkpoint_id="1"), [("\x00", [1])], "task"
        )
        fine = FencedSaver(store, good).aput(pointer(good.thread_id), empty_checkpoint(), {}, {})
        outcomes = await asyncio.gather(broken, fine, return_exceptions=True)
    assert isinstance(outcomes[0], Exception)
    assert not isinstance(outcomes[0], LeaseLost)
    assert not isinstance(outcomes[1], Exception)


async def test_deleting_a_runs_checkpoints_spares_those_of_others(
    database: Database, database_uri: str
) -> None:
    """A rollback takes back what one run wrote, blobs included, and nothing else."""
    lease = claim_new(database)
    async with open_store(database_uri) as store:
        saver = FencedSaver(store, lease)
        config = pointer(lease.thread_id)
        for number, run_id in enumerate(["old", str(lease.run_id)]):
            checkpoint = {**empty_checkpoint(), "channel_values": {"log": [number]}}
            checkpoint["channel_versions"] = {"log": str(number)}
            config = await saver.aput(config, checkpoint, {"run_id": run_id}, {"log": str(number)})
        await saver.adelete_for_runs([str(lease.run_id)])
        left = [found async for found in saver.alist(pointer(lease.thread_id))]
    assert [found.checkpoint["channel_values"] for found in left] == [{"log": [0]}]
    with database.statement() as connection:
        blobs = connection.exec_driver_sql(
            "SELECT version FROM checkpoint_blobs WHERE thread_id = %s", (str(lease.thread_id),)
        ).scalars()
        assert list(blobs) == ["0"]


class Told(TypedDict, total=False):
    """What the graph below passes on, of every kind that is stored in its own way."""

    number: int
    text: str
    things: Annotated[list[Any], operator.add]
    nothing: Any


def ask(state: Told) -> Told:
    """Ask twice, in one node."""
    first = interrupt({"q": 1})
    second = interrupt({"q": 2})
    return {"things": [first, second], "number": 2.5, "nothing": None}


def fan_out(state: Told) -> list[Send]:
    """Several tasks in one step."""
    return [Send("one", {"number": n}) for n in range(3)]


def one(state: Told) -> Told:
    """A task of the fan."""
    return {"things": [{"n": state["number"], "b": b"\x00\xff"}]}


def telling(saver: Any) -> Any:
    """A graph with a subgraph, a fan and interrupts."""
    inner = StateGraph(Told).add_node("ask", ask).add_edge(START, "ask").compile()
    outer = StateGraph(Told).add_node("one", one).add_node("inner", inner)
    outer.add_node("begin", lambda _: {"text": "a\x00b\ud800"})
    outer.add_edge(START, "begin").add_conditional_edges("begin", fan_out, ["one"])
    outer.add_edge("one", "inner").add_edge("inner", END)
    return outer.compile(checkpointer=saver)


@pytest.mark.parametrize("awaits_commits", [True, False])
async def test_what_a_run_remembers_is_what_postgres_holds(
    database: Database, database_uri: str, *, awaits_commits: bool
) -> None:
    """Every namespace, after every step, interrupt, resumption, update and fork."""
    lease = claim_new(database)
    config = pointer(lease.thread_id)
    async with open_store(database_uri) as store:
        saver = FencedSaver(store, lease, is_blank=True, awaits_commits=awaits_commits)
        graph = telling(saver)

        async def compare() -> None:
            await saver.settled()
            with store.reads.connection() as connection:
                rows = connection.execute(
                    "SELECT DISTINCT checkpoint_ns FROM checkpoints WHERE thread_id = %s",
                    (str(lease.thread_id),),
                ).fetchall()
            for row in rows:
                own = pointer(lease.thread_id, checkpoint_ns=row["checkpoint_ns"])
                stored = PostgresSaver(store.reads).get_tuple(own)
                remembered = saver.get_tuple(own)
                assert remembered is not None
                assert stored is not None
                assert remembered._replace(pending_writes=None) == stored._replace(
                    pending_writes=None
                )
                assert remembered.pending_writes == stored.pending_writes

        assert saver.get_tuple(config) is None
        given: Any
        for given in ({"number": 1, "things": []}, Command(resume="x"), Command(resume="y")):
            async for _ in graph.astream(given, config, stream_mode="values"):
                await compare()
            await compare()
        assert (await graph.aget_state(config)).next == ()
        await graph.aupdate_state(config, {"things": ["more"]})
        await compare()
        history = [snapshot async for snapshot in graph.aget_state_history(config)]
        await graph.aupdate_state(history[3].config, {"things": ["fork"]})
        await compare()
        assert (await graph.ainvoke({"number": 2}, config))["number"] is not None
        await compare()
        again = FencedSaver(store, lease)
        assert again.get_tuple(config) == again.get_tuple(config)
