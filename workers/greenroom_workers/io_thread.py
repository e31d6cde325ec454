"""One thread with one event loop for what all runs of a process share: Postgres and Redis."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Self, TypeVar

import redis
import redis.asyncio
import uvloop
from langgraph.store.base import BaseStore
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from greenroom.config import Config
from greenroom.graphs.connections import PatientAsyncConnection, PatientConnection, options
from greenroom.graphs.group_commit import (
    CheckpointStore,
    Pool,
    ReadPool,
    refuse_dead,
    refuse_dead_async,
)
from greenroom.graphs.long_term import open_store
from greenroom.logs import get_logger
from greenroom.signals.connection import PAUSE_SECONDS, SILENCE_SECONDS, connect, connect_async
from greenroom.streaming.frames import LARGEST_MESSAGE_BYTES
from greenroom_workers.last_words import LastWords
from greenroom_workers.sender import Sender
from greenroom_workers.shared_store import SharedStore

T = TypeVar("T")
log = get_logger(__name__)

RECONNECT_SECONDS = 0.5
LAST_WORDS_SECONDS = 2.0
"""What the ends of runs get to be told in when the process ends."""
LARGEST_LAST_BYTES = 64 * 1024
"""What a thread may write without being held up."""
READERS = 4
"""Connections for reading checkpoints; a run reads one or two in its life."""


class IoThread:
    """Owns the loop, the psycopg pool, the checkpoint store and the publisher's client.

    Graph threads hand it coroutines with `submit` and wait on their own loops.
    """

    checkpoints: CheckpointStore
    store: BaseStore
    pool: Pool
    redis: redis.asyncio.Redis
    sender: Sender

    def __init__(self, config: Config) -> None:
        self.config = config
        self.loop = uvloop.new_event_loop()
        self.reads: ReadPool = ConnectionPool(
            config.database_uri,
            connection_class=PatientConnection,
            kwargs=options(config, "greenroom worker reads"),
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
        self._sending: set[asyncio.Task[None]] = set()
        self.is_redis_away = False
        self.last_words = LastWords(connect(config.redis_uri))

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

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin a coroutine on the loop, from any thread. `close` lets it end, if it soon does."""
        if threading.get_ident() == self._thread.ident:
            self._spawn(work)
        else:
            self.loop.call_soon_threadsafe(self._spawn, work)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self.loop.create_task(work())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def listen(self, channel: str, handle: Callable[[bytes], None]) -> None:
        """Call `handle`, on the loop, with every message of a channel, for ever."""
        self.submit(self._start(self._listen(channel, handle))).result()

    async def publish(self, channel: str, messages: Sequence[bytes]) -> int | None:
        """Send messages to whoever listens, in order; on the loop. Best effort.

        Returns:
            How many listen; None when Redis does not say.
        """
        if self.is_redis_away:
            return None
        answers: list[Any] = []
        commands = [("PUBLISH", channel, message) for message in messages]
        is_small = sum(map(len, messages)) <= LARGEST_MESSAGE_BYTES
        try:
            for together in [commands] if is_small else [[command] for command in commands]:
                answers = await self.sender.send(*together)
        except (redis.RedisError, OSError) as error:
            log.debug("not published", channel=channel, error=repr(error))
            if not self.is_redis_away:
                self.is_redis_away = True
                await self._start(self._wait_for_redis())
            return None
        return answers[-1] if answers else None

    def publish_last(self, channel: str, messages: Sequence[bytes]) -> None:
        """As `publish`, for what nothing follows; from any thread, which does not wait."""
        if self.is_redis_away:
            return
        if sum(map(len, messages)) > LARGEST_LAST_BYTES or not self.last_words.send(
            channel, messages
        ):
            self.spawn(partial(self._publish_alone, channel, messages))

    async def _publish_alone(self, channel: str, messages: Sequence[bytes]) -> None:
        await self.publish(channel, messages)

    async def _wait_for_redis(self) -> None:
        """Ask whether Redis is back: nothing else waits for a dead host meanwhile."""
        while self.is_redis_away:
            await asyncio.sleep(PAUSE_SECONDS)
            with contextlib.suppress(redis.RedisError, OSError):
                self.is_redis_away = not await self.redis.ping()

    def close(self) -> None:
        """Close everything and end the thread."""
        self.last_words.close()
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
            connection_class=PatientAsyncConnection,
            kwargs=options(self.config, "greenroom worker checkpoints"),
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
        self.sender = Sender(self.redis)

    async def _close(self) -> None:
        if self._sending:
            await asyncio.wait(self._sending, timeout=LAST_WORDS_SECONDS)
        for task in self._tasks:
            task.cancel()
        await self.checkpoints.close()
        await self.sender.close()
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
                    async for message in heard(pubsub):
                        if message["type"] == "message":
                            handle(message["data"])
            except (redis.RedisError, OSError) as error:
                log.warning("worker lost redis", error=repr(error))
                await asyncio.sleep(RECONNECT_SECONDS)


async def heard(pubsub: redis.asyncio.client.PubSub) -> AsyncIterator[dict[str, Any]]:
    """What a subscription hears.

    Raises:
        redis.TimeoutError: it has heard nothing, not even the answer to a ping: its connection is
            dead, whatever the socket says.
    """
    has_asked = False
    while True:
        message = await pubsub.get_message(timeout=SILENCE_SECONDS)
        if message is not None:
            has_asked = False
            yield message
        elif has_asked:
            raise redis.TimeoutError("no answer to a ping")
        else:
            has_asked = True
            await pubsub.ping()
