"""The group-commit checkpointer: langgraph's own conformance suite, and the fence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

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
