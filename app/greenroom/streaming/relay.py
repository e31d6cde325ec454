"""One PubSub connection for all streams of a web process, and the watchdog over their ends."""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import gevent
import redis
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from sqlalchemy import text

from greenroom.database.engine import Database
from greenroom.errors import DatabaseUnavailable
from greenroom.logs import get_logger
from greenroom.signals.ear import Ear, Heard
from greenroom.signals.keys import Keys
from greenroom.streaming import shutdown
from greenroom.streaming.frames import (
    Batch,
    Chosen,
    Kind,
    Pieces,
    join,
    make_end,
    unpack,
)
from greenroom.streaming.heartbeats import Heartbeats
from greenroom.streaming.subscription import Subscription, Tally
from greenroom.streaming.thread_log import find_last

log = get_logger(__name__)

CONFIRM_SECONDS = 1.0
"""How long a stream waits for Redis to confirm; afterwards it lives on Postgres alone."""
RECONNECT_SECONDS = 0.25
LINGER_SECONDS = 0.05
"""How long a channel is heard that nobody wants: the next run of a thread may want it again."""
LARGEST_TOTAL_BYTES = 256 * 1024 * 1024
"""What all clients together may; beyond, those who left most unread are dropped."""
CROWD = 16
"""Readers of one thread for whom it pays to look whether more has come, and write it at once."""
TURN = 64
"""Deliveries after which the loop that hears Redis lets others have a turn."""

# Ended long enough ago that the worker's own announcement must have been lost, or gone altogether.
FIND_ENDED = text(
    "SELECT watched.run_id FROM unnest(CAST(:run_ids AS uuid[])) AS watched (run_id) "
    "LEFT JOIN run ON run.run_id = watched.run_id "
    "WHERE run.run_id IS NULL OR run.finished_at < now() - interval '1 second'"
)


@dataclass(eq=False, slots=True)
class _Channel:
    name: str
    """One text for all who listen."""
    subscriptions: set[Subscription] = field(default_factory=set)
    confirmed: Event = field(default_factory=Event)
    pieces: Pieces = field(default_factory=Pieces)


class Relay:
    """Fans a process's one PubSub connection out to its clients' subscriptions."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        database: Database,
        *,
        watchdog_seconds: float,
        heartbeat_seconds: float,
        patience_seconds: float,
    ) -> None:
        """Open nothing yet.

        Args:
            watchdog_seconds: between two looks at the rows of all streamed runs.
            heartbeat_seconds: between two heartbeats of a stream.
            patience_seconds: how long a client may take to read a piece before it is dropped.
        """
        self.keys = keys
        self.database = database
        self.watchdog_seconds = watchdog_seconds
        self.heartbeats = Heartbeats(heartbeat_seconds)
        self.patience_seconds = patience_seconds
        self.tally = Tally()
        self.channels: dict[str, _Channel] = {}
        self._ear = Ear(client)
        self._unwanted: set[str] = set()
        """Channels without subscriptions, to be left soon."""
        self._lock = BoundedSemaphore()
        self._deliveries = 0
        """Since others had a turn."""
        self._is_running = False
        self._is_closing = False
        self._is_deaf = False
        """Redis is away: what is said now comes from Postgres alone."""

    @property
    def stream_count(self) -> int:
        """Open streams and waits of this process."""
        return sum(len(channel.subscriptions) for channel in self.channels.values())

    def is_read(self, thread_id: UUID) -> bool:
        """Whether a client of this process listens to a thread."""
        channel = self.channels.get(self.keys.events(thread_id))
        return channel is not None and bool(channel.subscriptions)

    def subscribe(
        self, thread_id: UUID, run_id: UUID | None = None, *, to_numbered: bool = False
    ) -> Subscription:
        """Listen to a thread, in a `with` block: nothing published from now on is missed.

        Without Redis the block begins all the same, and ends come from Postgres alone.

        Args:
            to_numbered: to its events of generation 2.
        """
        subscription = self.subscribe_soon(thread_id, run_id, to_numbered=to_numbered)
        try:
            self.confirm(subscription)
        except BaseException:
            subscription.end()
            raise
        return subscription

    def subscribe_soon(
        self, thread_id: UUID, run_id: UUID | None = None, *, to_numbered: bool = False
    ) -> Subscription:
        """Begin to listen: the answer of Redis is on its way while the caller does other things.

        `confirm` must come before anything that is not to be missed.
        """
        name = (self.keys.numbered_events if to_numbered else self.keys.events)(thread_id)
        subscription = Subscription(thread_id, run_id, self, name)
        self._join(subscription)
        return subscription

    def confirm(self, subscription: Subscription) -> None:
        """Wait until Redis has begun to send; not for long."""
        channel = self.channels[subscription.channel]
        if self._is_deaf:
            return
        if not channel.confirmed.wait(CONFIRM_SECONDS):
            log.warning("relay is deaf: redis does not answer", thread_id=subscription.thread_id)

    def close(self) -> None:
        """End every stream, also those that still come, so that clients reconnect elsewhere."""
        self._is_closing = True
        for subscription in self._subscriptions():
            subscription.close()

    def _join(self, subscription: Subscription) -> None:
        self._start()
        if self._is_closing:
            subscription.close()
        name = subscription.channel
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = _Channel(name)
            channel.subscriptions.add(subscription)
            self._listen_to(name)
        else:
            self._unwanted.discard(name)
            subscription.channel = channel.name
            channel.subscriptions.add(subscription)
        self.heartbeats.add(subscription)

    def part(self, subscription: Subscription) -> None:
        """Send a subscription no more."""
        name = subscription.channel
        channel = self.channels.get(name)
        if channel is None or subscription not in channel.subscriptions:
            return
        channel.subscriptions.discard(subscription)
        self.heartbeats.discard(subscription)
        subscription.forget()
        if not channel.subscriptions:
            if not self._unwanted:
                gevent.spawn_later(LINGER_SECONDS, self._leave_unwanted)
            self._unwanted.add(name)

    def _start(self) -> None:
        """Begin to listen at the first stream: greenlets belong to the process after its fork."""
        if self._is_running:
            return
        self._is_running = True
        shutdown.register(self.close)
        gevent.spawn(self._listen)
        gevent.spawn(self._watch)

    def _listen_to(self, name: str) -> None:
        """Hear one channel more. Without Redis nobody waits: `_listen` takes it up again."""
        if self._is_deaf:
            return
        with self._speaking():
            if not self._is_deaf:
                self._ear.subscribe(name)

    def _leave_unwanted(self) -> None:
        """Hear no more what nobody wants; who comes back meanwhile speaks after us."""
        with self._speaking():
            names, self._unwanted = self._unwanted, set()
            for name in names:
                del self.channels[name]
            if names and not self._is_deaf:
                self._ear.unsubscribe(*names)

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """Speak to Redis, one at a time. What fails breaks the connection: `_listen` mends it."""
        with self._lock:
            try:
                yield
            except redis.RedisError:
                self._is_deaf = True

    def _listen(self) -> None:
        while True:
            try:
                with self._lock:
                    self._ear.open()
                    # Who comes from now on waits for the lock, and speaks for itself.
                    self._is_deaf = False
                    # Our own channel first: a connection without any subscription cannot be read.
                    self._ear.subscribe(self.keys.name("relay"), *self.channels)
                self._hear()
            except redis.RedisError as error:
                self._is_deaf = True
                log.warning("relay lost redis", error=repr(error))
                with self._lock:
                    self._ear.close()
                gevent.sleep(RECONNECT_SECONDS)

    def _hear(self) -> None:
        """Dispatch what comes, until the connection ends, or is dead whatever the socket says."""
        has_asked = False
        while True:
            heard = self._ear.hear()
            if heard is not None:
                has_asked = False
                self._dispatch(heard)
            elif has_asked:
                raise redis.TimeoutError("no answer to a ping")
            else:
                has_asked = True
                with self._lock:
                    self._ear.ping()

    def _dispatch(self, heard: Heard) -> None:
        """Pass a message on; to a crowd together with what has come behind it.

        Raises:
            redis.RedisError: the connection has ended. What was read has been passed on.
        """
        arrived = self._read(heard)
        while arrived is not None:
            channel, batch = arrived
            arrived = None
            try:
                is_crowd = len(channel.subscriptions) >= CROWD
                behind = self._ear.overhear() if is_crowd else None
            except redis.RedisError:
                self._fan_out(channel, batch)
                raise
            if behind is not None:
                arrived = self._read(behind)
                joined = join(batch, arrived[1]) if arrived and arrived[0] is channel else None
                if joined is not None:
                    arrived = channel, joined
                    continue
            self._fan_out(channel, batch)
            self._deliveries += len(channel.subscriptions)
            if self._deliveries >= TURN:
                self._deliveries = 0
                gevent.sleep(0)

    def _read(self, heard: Heard) -> tuple[_Channel, Batch] | None:
        """The batch that a message completes, and for whom; None if there is nothing to pass on."""
        channel = self.channels.get(heard.channel)
        if channel is None:
            return None
        if heard.kind == "subscribe":
            channel.confirmed.set()
        if heard.kind != "message":
            return None
        try:
            batch: Batch | None = unpack(heard.data)
            if batch is not None and batch.kind is Kind.PIECE:
                batch = channel.pieces.add(batch)
        except (ValueError, struct.error):
            log.warning("relay got a message that is not a batch", channel=heard.channel)
            return None
        return None if batch is None else (channel, batch)

    def _fan_out(self, channel: _Channel, batch: Batch) -> None:
        chosen: Chosen = {}
        for subscription in tuple(channel.subscriptions):
            subscription.push(batch, chosen)
        while self.tally.backlog_bytes > LARGEST_TOTAL_BYTES:
            slowest = max(self._subscriptions(), key=lambda one: one.backlog_bytes)
            log.warning("client dropped: too much waits for all", thread_id=slowest.thread_id)
            slowest.drop()

    def _watch(self) -> None:
        """Ask Postgres about all open streams in one query: a lost end may delay, never prevent."""
        while True:
            gevent.sleep(self.watchdog_seconds)
            subscriptions = self._subscriptions()
            watched = [s for s in subscriptions if s.awaited_run_id]
            readers = [s for s in subscriptions if s.next_seq is not None]
            try:
                if watched:
                    self._check(watched)
                if readers:
                    self._check_readers(readers)
            except DatabaseUnavailable as error:
                log.warning("watchdog cannot ask the database", error=str(error))

    def _check(self, watched: Sequence[Subscription]) -> None:
        with self.database.statement() as connection:
            run_ids = [str(run_id) for run_id in {s.awaited_run_id for s in watched}]
            ended = set(connection.execute(FIND_ENDED, {"run_ids": run_ids}).scalars())
        for subscription in watched:
            run_id = subscription.awaited_run_id
            if run_id is None or run_id not in ended:
                subscription.suspected = 0
                continue
            subscription.suspected += 1
            # Once more, so that what is on its way from Redis comes first.
            if subscription.suspected > 1 or not self._hears(subscription):
                subscription.push(make_end(run_id), {})

    def _check_readers(self, readers: Sequence[Subscription]) -> None:
        """Tell readers of numbered events about those that they should have by now."""
        with self.database.statement() as connection:
            last = find_last(connection, [s.thread_id for s in readers])
        for subscription in readers:
            last_seq, next_seq = last.get(subscription.thread_id, 0), subscription.next_seq
            if next_seq is None or last_seq < next_seq:
                subscription.suspected = 0
                continue
            subscription.suspected += 1
            if subscription.suspected > 1 or not self._hears(subscription):
                # Empty, and beyond what is missing: the reader turns to Postgres.
                nobody = UUID(int=0)
                subscription.push(Batch(Kind.EVENTS, nobody, 0, 0, last_seq + 1, 0, b""), {})

    def _hears(self, subscription: Subscription) -> bool:
        channel = self.channels.get(subscription.channel)
        return not self._is_deaf and channel is not None and channel.confirmed.is_set()

    def _subscriptions(self) -> list[Subscription]:
        return [s for channel in self.channels.values() for s in channel.subscriptions]
