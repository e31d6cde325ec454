"""Dramatiq's Redis broker with a consumer that waits instead of polling.

The stock consumer sleeps up to a second between looks; this one blocks inside Redis and wakes in
milliseconds. It leans on private names of dramatiq.brokers.redis: setup.cfg pins the minor version,
and tests/workers/test_broker.py holds it to its word.
"""

import queue
import threading
import time
from collections import deque
from typing import Any

import redis
from dramatiq import Message, MessageProxy
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.common import current_millis
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import CurrentMessage, Middleware, Retries
from redis.exceptions import NoScriptError

from greenroom.errors import DatabaseUnavailable
from greenroom.logs import get_logger

log = get_logger(__name__)

LOOK_SECONDS = 2.0
"""How long one blocking look lasts: also how late a consumer notices that it must stop."""
DELAY_SECONDS = 0.2
"""Between two looks of a consumer that has delayed messages in its hands."""
STOP_SECONDS = 0.05
BACK_OFF_MS = 200
LONGEST_BACK_OFF_MS = 5_000


class HeardMessage(MessageProxy):
    """A sentinel, and when this process took it from Redis, by the monotonic clock."""

    def __init__(self, message: Message[None], heard_at: float) -> None:
        super().__init__(message)
        self.heard_at = heard_at


def heard_at() -> float:
    """When the sentinel that this thread answers was heard."""
    message: Any = CurrentMessage.get_current_message()
    return float(message.heard_at)


class WaitingConsumer(_RedisConsumer):
    """Fetches like the stock consumer; when there is nothing, waits until there is."""

    def __init__(
        self, broker: "WaitingBroker", queue_name: str, prefetch: int, timeout: int
    ) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)
        self.list = f"{broker.namespace}:{queue_name}"
        self.has_room = threading.Event()
        self.heard_at = 0.0
        self._is_empty = False
        self._done: deque[str] = deque()
        """Redis's ids of messages that the next look takes off."""

    def ack(self, message: MessageProxy) -> None:
        """Take a message off for good, with the next look: a round trip less for each.

        Should the process end before, the bell rings once more.
        """
        self._done.append(message.options["redis_message_id"])
        self.queued_message_ids.discard(message.message_id)
        self.has_room.set()

    def nack(self, message: MessageProxy) -> None:
        """Give a message up."""
        try:
            super().nack(message)
        except (ConnectionClosed, redis.RedisError) as error:
            # Dramatiq would keep the thread until Redis is back, and with it a slot. What stays in
            # Redis is a bell that may ring once more.
            log.debug("bell not taken off", error=repr(error))
        self.has_room.set()

    def close(self) -> None:
        """Take off what the last look has left."""
        try:
            with self.broker.client.pipeline(transaction=False) as pipeline:
                self._take_off(pipeline)
                pipeline.execute()
        except redis.RedisError as error:
            log.debug("bells not taken off", error=repr(error))

    def __next__(self) -> MessageProxy | None:
        """The next message, or None when none came within one look."""
        try:
            if not self.message_cache:
                self._fetch_or_wait()
            while self.message_cache:
                data = self.message_cache.pop(0)
                if data is not None:
                    message = Message.decode(data)
                    self.queued_message_ids.add(message.message_id)
                    return HeardMessage(message, self.heard_at)
        except redis.RedisError as error:
            # Away, silent, or out of memory: Dramatiq waits a little and looks again.
            raise ConnectionClosed(error) from error
        return None

    def _fetch_or_wait(self) -> None:
        room = self.prefetch - self.outstanding_message_count
        if room <= 0:
            self.has_room.clear()
            if self.outstanding_message_count >= self.prefetch:
                self.has_room.wait(LOOK_SECONDS)
            return
        # What came since the last fetch, the next look finds without waiting.
        if not self._is_empty:
            self._look(room, waits=False)
        if not self.message_cache:
            self._await_message()

    def _await_message(self) -> None:
        """Wait until there is a message, and fetch it in the same round trip.

        Dramatiq's script takes that for a sign of life, too: it gives away what a consumer holds
        that it has not heard of for a minute.
        """
        room = self.prefetch - self.outstanding_message_count
        self._look(room, waits=True)
        self._is_empty = len(self.message_cache) < room

    def _look(self, room: int, *, waits: bool) -> None:
        """Take off what is done with, and fetch what there is: one round trip."""
        with self.broker.client.pipeline(transaction=False) as pipeline:
            done = self._take_off(pipeline)
            if waits:
                # A blocking peek: it moves the head of the list to where it was.
                pipeline.blmove(self.list, self.list, LOOK_SECONDS, "LEFT", "LEFT")
            self.broker.add_fetch(pipeline, self.queue_name, room)
            try:
                answers = pipeline.execute(raise_on_error=False)
            except redis.RedisError:
                self._done.extend(done)
                raise
        self.heard_at = time.monotonic()
        *others, fetched = answers
        if isinstance(fetched, NoScriptError):
            # Redis has been restarted: Dramatiq's own fetch loads its script again.
            fetched = self.broker.do_fetch(self.queue_name, room)
        for answer in (*others, fetched):
            if isinstance(answer, redis.RedisError):
                raise answer
        self.message_cache = fetched

    def _take_off(self, pipeline: Any) -> list[str]:
        """Add to a pipeline what takes messages off; which these are."""
        done = [self._done.popleft() for _ in range(len(self._done))]
        if done:
            acks = f"{self.broker.namespace}:__acks__.{self.broker.broker_id}.{self.queue_name}"
            pipeline.srem(acks, *done)
            pipeline.hdel(f"{self.list}.msgs", *done)
        return done


class DelayConsumer(WaitingConsumer):
    """Holds messages until their time has come: looks often while it has some."""

    def _await_message(self) -> None:
        if self.outstanding_message_count:
            self._is_empty = False
            time.sleep(DELAY_SECONDS)
        else:
            super()._await_message()


class WorkQueue(queue.PriorityQueue[Any]):
    """What Dramatiq's threads wait at: without a pulse, until there is a message or the end."""

    def __init__(self) -> None:
        super().__init__()
        self._is_closed = False

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 (the base's)
        """The next message.

        Raises:
            queue.Empty: there is none, or another thread was faster: the caller looks again.
        """
        with self.not_empty:
            if block and not self._qsize():
                self.not_empty.wait(STOP_SECONDS if self._is_closed else timeout)
            if not self._qsize():
                raise queue.Empty
            message = self._get()
            self.not_full.notify()
            return message

    def close(self) -> None:
        """Wake everybody: who was told to stop does."""
        with self.not_empty:
            self._is_closed = True
            self.not_empty.notify_all()


class WaitingBroker(RedisBroker):
    """A RedisBroker whose queues are waited on."""

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> _RedisConsumer:
        """See the base class."""
        kind = DelayConsumer if queue_name in self.delay_queues else WaitingConsumer
        return kind(self, queue_name, prefetch, timeout)

    def add_fetch(self, pipeline: Any, queue_name: str, room: int) -> None:
        """Add to a pipeline what `do_fetch` sends."""
        pipeline.evalsha(
            self.scripts["dispatch"].sha,
            1,
            self.namespace,
            *("fetch", current_millis(), queue_name, self.broker_id),
            *(self.heartbeat_timeout, self.dead_message_ttl),
            *(self._should_do_maintenance("fetch"), self._max_unpack_size()),
            room,
        )


def make_broker(client: redis.Redis, namespace: str, max_attempts: int) -> WaitingBroker:
    """A broker for workers: only the middleware that is used.

    A look that fails because Postgres is away is tried again, `max_attempts` times in all; then the
    sweep takes over. Time limits, leases and cancellation are ours.
    """

    def should_retry(retries_so_far: int, error: BaseException) -> bool:
        return isinstance(error, DatabaseUnavailable) and retries_so_far < max_attempts - 1

    middleware: list[Middleware] = [
        Retries(retry_when=should_retry, min_backoff=BACK_OFF_MS, max_backoff=LONGEST_BACK_OFF_MS),
        CurrentMessage(),
    ]
    return WaitingBroker(client=client, namespace=namespace, middleware=middleware)
