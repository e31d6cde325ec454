"""One thread with one event loop for what all runs of a process share: Postgres and Redis."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import redis
import redis.asyncio
import uvloop
from langgraph.store.base import BaseStore
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from greenroom.config import Config
from greenroom.graphs.checkpointer import (
    CheckpointStore,
    Pool,
    ReadPool,
    refuse_dead,
    refuse_dead_async,
)
from greenroom.graphs.long_term import open_store
from greenroom.logs import get_logger
from greenroom.signals.connection import connect_async
from greenroom_workers.shared_store import SharedStore

T = TypeVar("T")
log = get_logger(__name__)

RECONNECT_SECONDS = 0.5
READERS = 4
"""Connections for reading checkpoints; a run reads one or two in its life."""
CONNECTION: dict[str, Any] = {
    "autocommit": True,
    "row_factory": dict_row,
    "prepare_threshold": 0,
}


class IoThread:
    """Owns the loop, the psycopg pool, the checkpoint store and the publisher's client.

    Graph threads hand it coroutines with `submit` and wait on their own loops.
    """

    checkpoints: CheckpointStore
    store: BaseStore
    pool: Pool
    redis: redis.asyncio.Redis

    def __init__(self, config: Config) -> None:
        self.config = config
        self.loop = uvloop.new_event_loop()
        self.reads: ReadPool = ConnectionPool(
            config.database_uri,
            kwargs={**CONNECTION, "application_name": "greenroom worker reads"},
            min_size=1,
            max_size=min(config.slots, READERS),
            num_workers=1,
            timeout=10.0,
            reconnect_timeout=30.0,
            check=refuse_dead,
            name="reads",
            open=False,
        )
        self._thread = threading.Thread(target=self._run, name="io", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        """Open everything; returns when it is ready. Postgres and Redis may be away.

        Raises:
            ConfigError: as `open_store`.
        """
        self._thread.start()
        self.reads.open()
        self.submit(self._open()).result()
        return self

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop; from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def listen(self, channel: str, handle: Callable[[bytes], None]) -> None:
        """Call `handle`, on the loop, with every message of a channel, for ever."""
        self.submit(self._start(self._listen(channel, handle))).result()

    def close(self) -> None:
        """Close everything and end the thread."""
        self.submit(self._close()).result(timeout=10)
        self.reads.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _open(self) -> None:
        self.pool = AsyncConnectionPool(
            self.config.database_uri,
            kwargs={**CONNECTION, "application_name": "greenroom worker checkpoints"},
            min_size=1,
            max_size=self.config.database_pool_size,
            timeout=10.0,
            reconnect_timeout=30.0,
            check=refuse_dead_async,
            name="checkpoints",
            open=False,
        )
        await self.pool.open()
        self.checkpoints = CheckpointStore(self.pool, self.reads)
        self.store = SharedStore(open_store(self.pool, self.config.project), self.loop)
        self.redis = connect_async(self.config.redis_uri)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.checkpoints.close()
        await self.redis.aclose()
        await self.pool.close()

    async def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, channel: str, handle: Callable[[bytes], None]) -> None:
        while True:
            try:
                async with self.redis.pubsub() as pubsub:
                    await pubsub.subscribe(channel)
                    while True:
                        message = await pubsub.get_message(
                            ignore_subscribe_messages=True, timeout=30.0
                        )
                        if message is not None:
                            handle(message["data"])
            except (redis.RedisError, OSError) as error:
                log.warning("worker lost redis", error=repr(error))
                await asyncio.sleep(RECONNECT_SECONDS)
