"""The connections to Postgres of the graphs process, and what langgraph keeps there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.store.base import BaseStore
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg_pool import AsyncConnectionPool

from greenroom import encryption
from greenroom.config import Config
from greenroom.graphs.checkpoint_clock import observe
from greenroom.graphs.connections import PatientAsyncConnection, options
from greenroom.graphs.factories import run_in_thread
from greenroom.graphs.group_commit import NEWEST
from greenroom.graphs.long_term import open_store
from greenroom.graphs.serde import Apart, Serializer, is_inline, make_serde
from greenroom.graphs.snapshots import Snapshots

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]

# How long a call waits for a connection before the client is told to come back.
ACQUIRE_SECONDS = 10.0
# After so long without Postgres the pool waits for the next call before it tries again.
RECONNECT_SECONDS = 60.0


class ObservingSaver(AsyncPostgresSaver):
    """langgraph's saver, whose updates become the newest checkpoints of their threads."""

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See the base class. With a key no value stays in the checkpoint's JSON."""
        if encryption.is_on():
            values = checkpoint["channel_values"]
            inline = {name: Apart(value) for name, value in values.items() if is_inline(value)}
            checkpoint = {**checkpoint, "channel_values": {**values, **inline}}
            # Unchanged ones, too: before there was a key they had no blob.
            versions = checkpoint["channel_versions"]
            unchanged = {name: versions[name] for name in inline if name in versions}
            new_versions = {**unchanged, **new_versions}
        # What the base class would take from the configuration it finds done.
        about = await _sealed(get_serializable_checkpoint_metadata(config, metadata))
        return await super().aput(config, checkpoint, about, new_versions)

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        metadata = encryption.unseal_members(value["metadata"])
        # The base class would go to a thread for the writes of each checkpoint; its values are
        # decoded here as well.
        row = {**value, "metadata": metadata}
        return PostgresSaver._load_checkpoint_tuple(cast(PostgresSaver, self), row)  # noqa: SLF001

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See the base class."""
        found = await super().aget_tuple(config)
        if found is not None:
            observe(found.checkpoint["id"])
            if get_checkpoint_id(config) is not None:
                await self._observe_newest(found)
        return found

    async def _observe_newest(self, found: CheckpointTuple) -> None:
        configurable = found.config["configurable"]
        async with self._cursor() as cursor:
            await cursor.execute(NEWEST, (configurable["thread_id"], configurable["checkpoint_ns"]))
            row = await cursor.fetchone()
        if row is not None and row["newest"] is not None:
            observe(row["newest"])


async def _sealed(metadata: CheckpointMetadata) -> Any:
    """As `encryption.seal_members`, without a wait for the owner's handler on this loop."""
    if encryption.has_handler():
        return await run_in_thread(encryption.seal_members, metadata)
    return encryption.seal_members(metadata)


@dataclass(frozen=True, slots=True)
class Persistence:
    """What the graphs of one process share. Belongs to the loop that opened it."""

    pool: Pool
    store: BaseStore
    serde: Serializer
    snapshots: Snapshots

    @property
    def checkpointer(self) -> BaseCheckpointSaver[Any]:
        """A new saver for each use: langgraph's lets one caller at a time on its connections."""
        return ObservingSaver(self.pool, serde=self.serde)


@asynccontextmanager
async def open_persistence(config: Config) -> AsyncIterator[Persistence]:
    """Open the pool, and close it afterwards.

    Comes up without Postgres too: calls fail with psycopg's OperationalError (PoolTimeout
    included) until it is back. Tables are the business of `greenroom migrate`.

    Raises:
        ConfigError: as `open_store`.
    """
    snapshots = Snapshots(config.history_cache_bytes)
    pool: Pool = AsyncConnectionPool(
        config.database_uri,
        connection_class=PatientAsyncConnection,
        kwargs=options(config, "greenroom graphs"),
        min_size=1,
        max_size=config.database_pool_size,
        timeout=ACQUIRE_SECONDS,
        reconnect_timeout=RECONNECT_SECONDS,
        # A restart of Postgres leaves dead connections behind: look before handing one out.
        check=AsyncConnectionPool.check_connection,
        configure=snapshots.forget,
        name="graphs",
        open=False,
    )
    async with pool:
        store, serde = open_store(pool, config.project), make_serde(config.project)
        yield Persistence(pool, store, serde, snapshots)
