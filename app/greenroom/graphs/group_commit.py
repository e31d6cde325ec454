"""Checkpoints on their way to Postgres: fenced by leases, and committed in groups.

Checkpoints are most of a short run's cost, so the puts of all runs of a process that are waiting
go to Postgres as one statement.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import psycopg_pool
from psycopg import AsyncConnection, Connection
from psycopg.rows import DictRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from greenroom.database.engine import has_news, is_passing_state
from greenroom.errors import DatabaseUnavailable, LeaseLost
from greenroom.graphs import arrays
from greenroom.graphs.later import Later
from greenroom.queue.life import Lease

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]
ReadPool = ConnectionPool[Connection[DictRow]]
BlobKey = tuple[str, str, str, str]
CheckpointKey = tuple[str, str, str]
WriteKey = tuple[str, str, str, str, int]

FLUSHERS = 2
"""Statements under way at once: while one commits, the next gathers."""
KINDS: Mapping[str, arrays.Pack] = {
    "run": arrays.uuids,
    "blob": arrays.blobs,
    "idx": arrays.integers,
    "special": arrays.booleans,
}
"""Of columns that are not text."""
LARGEST_GROUP_BYTES = 8 * 1024 * 1024

# `owner` is the fence: rows of a run whose lease has moved on join nothing and are not written.
# FOR SHARE makes a claim by somebody else wait for this commit, so that it cannot fall between.
WRITE_GROUP = """
WITH owner AS MATERIALIZED (
    SELECT run.run_id
      FROM unnest(%(run_ids)b::uuid[], %(tokens)b::bigint[]) AS held (run_id, lease_token)
      JOIN run USING (run_id, lease_token)
     WHERE run.status = 'running' FOR SHARE OF run
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT thread_id, ns, channel, version, type, blob
      FROM unnest(%(b_run)b::uuid[], %(b_thread)b::text[], %(b_ns)b::text[], %(b_channel)b::text[],
                  %(b_version)b::text[], %(b_type)b::text[], %(b_blob)b::bytea[])
           AS b (run_id, thread_id, ns, channel, version, type, blob) JOIN owner USING (run_id)
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
), heads AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
                             checkpoint, metadata)
    SELECT thread_id, ns, id, parent, checkpoint::jsonb, metadata::jsonb
      FROM unnest(%(c_run)b::uuid[], %(c_thread)b::text[], %(c_ns)b::text[], %(c_id)b::text[],
                  %(c_parent)b::text[], %(c_checkpoint)b::text[], %(c_metadata)b::text[])
           AS c (run_id, thread_id, ns, id, parent, checkpoint, metadata) JOIN owner USING (run_id)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
), special AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path,
                                   idx, channel, type, blob)
    SELECT thread_id, ns, id, task, path, idx, channel, type, blob
      FROM unnest(%(w_run)b::uuid[], %(w_thread)b::text[], %(w_ns)b::text[], %(w_id)b::text[],
                  %(w_task)b::text[], %(w_path)b::text[], %(w_idx)b::integer[],
                  %(w_channel)b::text[], %(w_type)b::text[], %(w_blob)b::bytea[],
                  %(w_special)b::boolean[])
           AS w (run_id, thread_id, ns, id, task, path, idx, channel, type, blob, is_special)
      JOIN owner USING (run_id) WHERE is_special
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
    DO UPDATE SET channel = excluded.channel, type = excluded.type, blob = excluded.blob
), writes AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path,
                                   idx, channel, type, blob)
    SELECT thread_id, ns, id, task, path, idx, channel, type, blob
      FROM unnest(%(w_run)b::uuid[], %(w_thread)b::text[], %(w_ns)b::text[], %(w_id)b::text[],
                  %(w_task)b::text[], %(w_path)b::text[], %(w_idx)b::integer[],
                  %(w_channel)b::text[], %(w_type)b::text[], %(w_blob)b::bytea[],
                  %(w_special)b::boolean[])
           AS w (run_id, thread_id, ns, id, task, path, idx, channel, type, blob, is_special)
      JOIN owner USING (run_id) WHERE NOT is_special
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
)
SELECT run_id FROM owner
"""

DELETE_FOR_RUNS = """
WITH owner AS MATERIALIZED (
    SELECT run_id FROM run
     WHERE run_id = %(owner)s AND lease_token = %(token)s AND status = 'running' FOR SHARE
), gone AS (
    DELETE FROM checkpoints USING owner
     WHERE thread_id = %(thread_id)s AND metadata ->> 'run_id' = ANY (%(run_ids)s)
    RETURNING checkpoint_ns, checkpoint_id, checkpoint -> 'channel_versions' AS versions
), written AS (
    DELETE FROM checkpoint_writes USING gone
     WHERE checkpoint_writes.thread_id = %(thread_id)s
       AND checkpoint_writes.checkpoint_ns = gone.checkpoint_ns
       AND checkpoint_writes.checkpoint_id = gone.checkpoint_id
), kept AS (
    SELECT checkpoint_ns, version.key, version.value
      FROM checkpoints CROSS JOIN jsonb_each_text(checkpoint -> 'channel_versions') AS version
     WHERE thread_id = %(thread_id)s
       AND coalesce(metadata ->> 'run_id', '') <> ALL (%(run_ids)s)
), blobs AS (
    DELETE FROM checkpoint_blobs USING (
        SELECT DISTINCT checkpoint_ns, version.key, version.value
          FROM gone CROSS JOIN jsonb_each_text(versions) AS version
        EXCEPT SELECT * FROM kept
    ) AS orphan
     WHERE checkpoint_blobs.thread_id = %(thread_id)s
       AND checkpoint_blobs.checkpoint_ns = orphan.checkpoint_ns
       AND checkpoint_blobs.channel = orphan.key AND checkpoint_blobs.version = orphan.value
)
SELECT run_id FROM owner
"""

NEWEST = """
SELECT max(checkpoint_id) AS newest FROM checkpoints WHERE thread_id = %s AND checkpoint_ns = %s
"""


@dataclass(slots=True)
class Chain:
    """The puts of one run, each of which builds on those before."""

    error: Exception | None = None
    """Of the first that could not be written: from then on none is."""


@dataclass(slots=True, eq=False)
class Put:
    """What one call of a saver wants written, and who waits for it."""

    lease: Lease
    chain: Chain
    done: "Future[None]" = field(default_factory=Future)
    """Done once it is committed; LeaseLost or DatabaseUnavailable when it cannot be."""
    size_bytes: int = 0
    blobs: dict[BlobKey, tuple[str, bytes | None]] = field(default_factory=dict)
    heads: dict[CheckpointKey, tuple[str | None, str, str]] = field(default_factory=dict)
    writes: dict[WriteKey, tuple[str, str, str, bytes, bool]] = field(default_factory=dict)
    """Key to task path, channel, type, blob and whether a later write replaces it."""


def refuse_dead(connection: Connection[DictRow]) -> None:
    """Make a pool replace a connection that the server has closed, without a round trip."""
    if has_news(connection.fileno()):
        # The library has not noticed yet, and would take the connection back as a good one.
        connection.close()
        raise psycopg.OperationalError("the server has closed this connection")


async def refuse_dead_async(connection: AsyncConnection[DictRow]) -> None:
    """As `refuse_dead`, for the pool of the I/O loop."""
    if has_news(connection.fileno()):
        await connection.close()
        raise psycopg.OperationalError("the server has closed this connection")


class CheckpointStore:
    """The process's one way to the checkpoint tables. Lives on the I/O loop that made it.

    Writes gather there. Reads do not: a run that reads waits for the answer and does nothing else,
    so it asks Postgres from its own thread, which spares two hops between threads.
    """

    def __init__(self, pool: Pool, reads: ReadPool) -> None:
        self.pool = pool
        self.reads = reads
        self.loop = asyncio.get_running_loop()
        self._coming: deque[Put] = deque()
        self._is_called = False
        self._waiting: list[Put] = []
        self._under_way: set[UUID] = set()
        """Runs with a put that is being written: their next ones must not overtake it."""
        self._has_work = asyncio.Event()
        self.later = Later(self.loop)
        self._flushers = [asyncio.create_task(self._flush_for_ever()) for _ in range(FLUSHERS)]

    def submit(self, put: Put) -> None:
        """Queue a put, from any thread. `put.done` tells the end."""
        self._coming.append(put)
        # One call takes all that have come: waking the loop costs more than the rest of this.
        if not self._is_called:
            self._is_called = True
            self.loop.call_soon_threadsafe(self._queue)

    def _queue(self) -> None:
        self._is_called = False
        while self._coming:
            self._waiting.append(self._coming.popleft())
        self._has_work.set()

    async def delete_for_runs(self, lease: Lease, run_ids: Sequence[str]) -> None:
        """Remove every checkpoint that these runs wrote on the lease's thread.

        Raises:
            LeaseLost, DatabaseUnavailable.
        """
        parameters = {
            "owner": lease.run_id,
            "token": lease.token,
            "thread_id": str(lease.thread_id),
            "run_ids": list(run_ids),
        }
        with translated():
            async with self.pool.connection() as connection:
                cursor = await connection.execute(DELETE_FOR_RUNS, parameters)
                if await cursor.fetchone() is None:
                    raise LeaseLost(f"run {lease.run_id} belongs to another worker")

    async def close(self) -> None:
        """Stop the flushers; whoever still waits gets a CancelledError."""
        for flusher in self._flushers:
            flusher.cancel()
        await asyncio.gather(*self._flushers, return_exceptions=True)

    async def _flush_for_ever(self) -> None:
        while True:
            await self._has_work.wait()
            group = self._take()
            if not group:
                continue
            runs = {put.lease.run_id for put in group}
            self._under_way |= runs
            try:
                await self._write(group)
            except asyncio.CancelledError:
                for put in group:
                    put.done.cancel()
                raise
            except DatabaseUnavailable as error:
                settle(group, error)
            except Exception as error:  # noqa: BLE001 (one put's data must not fail the others)
                await self._write_apart(group, error)
            finally:
                self._under_way -= runs
                if self._waiting:
                    self._has_work.set()

    def _take(self) -> list[Put]:
        """Take what may be written now: no checkpoint before its parent, none without it."""
        size, group, rest = 0, list[Put](), list[Put]()
        for put in self._waiting:
            if put.chain.error is not None:
                settle([put], put.chain.error)
            elif size > LARGEST_GROUP_BYTES or put.lease.run_id in self._under_way:
                rest.append(put)
            else:
                size += put.size_bytes
                group.append(put)
        self._waiting = rest
        if not group or size <= LARGEST_GROUP_BYTES:
            self._has_work.clear()
        return group

    async def _write_apart(self, group: list[Put], error: Exception) -> None:
        if len(group) == 1:
            settle(group, error)
            return
        for put in group:
            if put.chain.error is not None:
                settle([put], put.chain.error)
                continue
            try:
                await self._write([put])
            except Exception as own_error:  # noqa: BLE001 (it belongs to this put's run)
                settle([put], own_error)

    async def _write(self, group: list[Put]) -> None:
        with translated():
            async with self.pool.connection() as connection:
                cursor = await connection.execute(WRITE_GROUP, columns(group), prepare=True)
                owners = {row["run_id"] for row in await cursor.fetchall()}
        for put in group:
            owned = put.lease.run_id in owners
            lost = LeaseLost(f"run {put.lease.run_id} belongs to another worker")
            settle([put], None if owned else lost)


def settle(group: Sequence[Put], error: Exception | None) -> None:
    """Tell everyone who waits for these puts."""
    for put in group:
        if put.done.done():
            continue
        if error is None:
            put.done.set_result(None)
        else:
            put.chain.error = put.chain.error or error
            put.done.set_exception(error)


def columns(group: Sequence[Put]) -> dict[str, arrays.Array]:
    """Turn puts into arrays, one a column. A key that comes twice is written once.

    The last of equal keys counts, except among ordinary writes, where the first does.
    """
    leases = {put.lease.run_id: put.lease.token for put in group}
    blobs: dict[BlobKey, list[Any]] = {}
    heads: dict[CheckpointKey, list[Any]] = {}
    writes: dict[WriteKey, list[Any]] = {}
    for put in group:
        run_id = put.lease.run_id
        for blob_key, blob in put.blobs.items():
            blobs[blob_key] = [run_id, *blob_key, *blob]
        for head_key, head in put.heads.items():
            heads[head_key] = [run_id, *head_key, *head]
        for write_key, (path, channel, kind, blob_bytes, special) in put.writes.items():
            if special or write_key not in writes:
                thread_id, ns, checkpoint_id, task_id, index = write_key
                writes[write_key] = [
                    *(run_id, thread_id, ns, checkpoint_id, task_id, path, index),
                    *(channel, kind, blob_bytes, special),
                ]
    return {
        "run_ids": arrays.uuids(leases),
        "tokens": arrays.bigints(leases.values()),
        **turn("b", ("run", "thread", "ns", "channel", "version", "type", "blob"), blobs),
        **turn("c", ("run", "thread", "ns", "id", "parent", "checkpoint", "metadata"), heads),
        **turn(
            "w",
            (
                *("run", "thread", "ns", "id", "task", "path", "idx"),
                *("channel", "type", "blob", "special"),
            ),
            writes,
        ),
    }


def turn(
    prefix: str, names: Sequence[str], rows: Mapping[Any, list[Any]]
) -> dict[str, arrays.Array]:
    """Rows to columns, named for the statement."""
    turned = zip(*rows.values(), strict=True) if rows else [()] * len(names)
    return {
        f"{prefix}_{name}": KINDS.get(name, arrays.texts)(column)
        for name, column in zip(names, turned, strict=True)
    }


class translated:  # noqa: N801 (reads as a word of the with statement)
    """Name a driver's passing trouble DatabaseUnavailable."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.PoolClosed):
            raise DatabaseUnavailable("no connection to the database is free") from error
        state = error.sqlstate if isinstance(error, psycopg.Error) else None
        is_passing = bool(state) and is_passing_state(str(state))
        if is_passing or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            raise DatabaseUnavailable("the database is not available") from error
