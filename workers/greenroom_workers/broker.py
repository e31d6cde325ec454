"""Dramatiq's Redis broker with a consumer that waits instead of polling.

The stock consumer sleeps up to a second between looks; this one blocks inside Redis and wakes in
milliseconds. It leans on private names of dramatiq.brokers.redis: setup.cfg pins the minor version,
and tests/workers/test_broker.py holds it to its word.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from dramatiq import Message, MessageProxy
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import CurrentMessage, Middleware, Retries

from greenroom.errors import DatabaseUnavailable
from greenroom.logs import get_logger

log = get_logger(__name__)

LOOK_SECONDS = 2.0
"""How long one blocking look lasts: also how late a consumer notices that it must stop."""
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

    def ack(self, message: MessageProxy) -> None:
        """Take a message off for good."""
        self._take_off(super().ack, message)

    def nack(self, message: MessageProxy) -> None:
        """Give a message up."""
        self._take_off(super().nack, message)

    def _take_off(self, tell: Callable[[MessageProxy], None], message: MessageProxy) -> None:
        try:
            tell(message)
        except (ConnectionClosed, redis.RedisError) as error:
            # Dramatiq would keep the thread until Redis is back, and with it a slot. What stays in
            # Redis is a bell that may ring once more.
            log.debug("bell not taken off", error=repr(error))
        self.has_room.set()

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
        self.message_cache = self.broker.do_fetch(self.queue_name, room)
        self.heard_at = time.monotonic()
        if not self.message_cache:
            # A blocking peek: it moves the head of the list to where it was.
            self.broker.client.blmove(self.list, self.list, LOOK_SECONDS, "LEFT", "LEFT")


class WaitingBroker(RedisBroker):
    """A RedisBroker whose main queue is waited on; its delay queue stays stock."""

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> _RedisConsumer:
        """See the base class."""
        kind = _RedisConsumer if queue_name in self.delay_queues else WaitingConsumer
        return kind(self, queue_name, prefetch, timeout)


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
