"""Dramatiq's broker and consumer over the bell: a list in Redis that is waited at, not polled.

Dramatiq's own Redis broker keeps each message in a hash, and who has it in a set. A sentinel has
nothing to keep: who dies with one in hand costs a sweep, as a ring that gets lost does.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any

import dramatiq
import redis
from dramatiq import Message, MessageProxy
from dramatiq.errors import ConnectionClosed, QueueNotFound
from dramatiq.middleware import CurrentMessage, Middleware, Retries

from greenroom.errors import DatabaseUnavailable
from greenroom.logs import get_logger
from greenroom.signals.bell import (
    ACTOR,
    LONGEST_QUEUE,
    QUEUE,
    Bell,
    make_sentinel,
    read_sentinel,
)
from greenroom.signals.straight import Command, Straight

log = get_logger(__name__)

LOOK_SECONDS = 2.0
"""How long a consumer waits in Redis: also how late it notices that it must stop."""
MANY = 16
"""Of so many rings more than a process can answer it is worth a look whether they are stale."""
STOP_SECONDS = 0.05
BACK_OFF_MS = 200
LONGEST_BACK_OFF_MS = 5_000
RETRIES = "retries"
"""Where Dramatiq counts how often a message has failed."""


class HeardMessage(MessageProxy):
    """A sentinel as Dramatiq's message, and when this process heard it, by the monotonic clock."""

    def __init__(self, sentinel: bytes, heard_at: float) -> None:
        options = {RETRIES: failures} if (failures := read_sentinel(sentinel)) else {}
        super().__init__(Message(QUEUE, ACTOR, (), {}, options))
        self.heard_at = heard_at


def heard_at() -> float:
    """When the sentinel that this thread answers was heard."""
    message: Any = CurrentMessage.get_current_message()
    return float(message.heard_at)


def sentinel_of(message: Message[Any] | MessageProxy) -> bytes:
    """What stands for a message on the list."""
    return make_sentinel(message.options.get(RETRIES, 0))


class BellConsumer(dramatiq.Consumer):
    """Takes sentinels off the list; when there are none, waits in Redis until there are."""

    def __init__(self, broker: "BellBroker", prefetch: int) -> None:
        self.broker = broker
        self.prefetch = prefetch
        self._straight = Straight(broker.bell.client)
        self.has_room = threading.Event()
        self._heard: deque[bytes] = deque()
        self._heard_at = 0.0
        self._unanswered: set[str] = set()

    def ack(self, message: MessageProxy) -> None:
        """Make room for another."""
        self._unanswered.discard(message.message_id)
        self.has_room.set()

    def nack(self, message: MessageProxy) -> None:
        """Give a look up that has failed for good: the sweep takes over."""
        self.ack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Leave messages for other processes."""
        self.broker.leave([sentinel_of(message) for message in messages])

    def close(self) -> None:
        """Leave for others what Dramatiq has not taken."""
        heard, self._heard = self._heard, deque()
        self.broker.leave(heard)
        self._straight.close()

    def __next__(self) -> MessageProxy | None:
        """The next message, or None when none came for a while.

        Raises:
            ConnectionClosed: Redis is away, silent, or out of memory: Dramatiq looks again later.
        """
        if self.broker.is_resting:
            time.sleep(STOP_SECONDS)
        elif not self._heard:
            if (room := self._room()) > 0:
                self._listen(room)
            else:
                self._await_room()
        if self.broker.is_resting:
            self.close()
        if not self._heard:
            return None
        message = HeardMessage(self._heard.popleft(), self._heard_at)
        self._unanswered.add(message.message_id)
        return message

    def _room(self) -> int:
        """How many more we may have unanswered: what our threads are too busy for is for others."""
        slots = self.broker.find_slots
        return (slots() if slots else self.prefetch) - len(self._unanswered)

    def _await_room(self) -> None:
        self.has_room.clear()
        if self._room() <= 0:
            self.has_room.wait(LOOK_SECONDS)

    def _listen(self, room: int) -> None:
        """Take what there is, or the first that comes: one round trip."""
        bell = self.broker.bell.list
        commands: list[Command] = [("BLPOP", bell, LOOK_SECONDS), ("LLEN", bell)]
        if room > 1:
            commands.append(("LPOP", bell, room - 1))
        try:
            first, left, *others = self._straight.ask(*commands)
        except redis.RedisError as error:
            raise ConnectionClosed(error) from error
        self._heard_at = time.monotonic()
        if first:
            self._heard.append(first[1])
        for more in others:
            self._heard.extend(more or ())
        if left >= room + MANY:
            self._clear_stale()

    def _clear_stale(self) -> None:
        """Of many more rings than our threads can answer, keep none if nothing is due any more.

        After a flood the list is full of what was answered long ago: whoever ended a run looked for
        the next. They are taken off before the look, so that each of them is older.
        """
        try:
            (stale,) = self._straight.ask(("LPOP", self.broker.bell.list, LONGEST_QUEUE))
        except redis.RedisError as error:
            raise ConnectionClosed(error) from error
        if not stale:
            return
        if self.broker.is_work_due():
            self.broker.leave(stale)
        else:
            self._heard.clear()


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


class BellBroker(dramatiq.Broker):
    """Brings what rings to Dramatiq's threads. There is one queue."""

    def __init__(self, bell: Bell, middleware: list[Middleware]) -> None:
        super().__init__(middleware)
        self.bell = bell
        self.is_resting = False
        """The process stops: whoever hears the bell from now on leaves it to others."""
        self.find_slots: Callable[[], int] | None = None
        """Tells how many threads there are to answer; None: as many as Dramatiq would prefetch."""
        self.is_work_due: Callable[[], bool] = lambda: True
        """Looks whether anything is left to answer; True when nobody can tell."""

    def declare_queue(self, queue_name: str) -> None:
        """See the base class."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> BellConsumer:
        """See the base class."""
        if queue_name != QUEUE:
            raise QueueNotFound(queue_name)
        return BellConsumer(self, prefetch)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Ring for a message, after so many milliseconds; one of a process that ends is lost."""
        self.emit_before("enqueue", message, delay)
        timer = threading.Timer((delay or 0) / 1000, self.leave, [[sentinel_of(message)]])
        timer.daemon = True
        timer.start()
        self.emit_after("enqueue", message, delay)
        return message

    def leave(self, sentinels: Collection[bytes]) -> None:
        """Put sentinels back on the list, if there are any. What gets lost costs a sweep."""
        try:
            if sentinels:
                self.bell.put(sentinels)
        except redis.RedisError as error:
            log.debug("bells not left for others", count=len(sentinels), error=repr(error))


def make_broker(client: redis.Redis, namespace: str, max_attempts: int) -> BellBroker:
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
    return BellBroker(Bell(client, namespace), middleware)
