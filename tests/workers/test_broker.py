"""The bell's broker keeps Dramatiq's word, and wakes at once."""

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

import dramatiq
import pytest
import redis
from deployment import until

from greenroom.errors import DatabaseUnavailable
from greenroom.signals.bell import ACTOR, LONGEST_QUEUE, QUEUE, Bell, make_sentinel, read_sentinel
from greenroom_workers.broker import WorkQueue, make_broker

NAMESPACE = "test:bell"


class Counting:
    """A worker whose actor counts, and waits or fails when told to."""

    def __init__(self, client: redis.Redis, threads: int) -> None:
        self.calls = threading.Semaphore(0)
        self.failures = 0
        self.gate = threading.Event()
        self.gate.set()
        broker = make_broker(client, NAMESPACE, 3)

        @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=ACTOR)
        def look() -> None:
            self.calls.release()
            self.gate.wait(20)
            if self.failures:
                self.failures -= 1
                raise DatabaseUnavailable("away")

        self.worker = dramatiq.Worker(broker, worker_threads=threads)
        self.worker.start()

    def called(self, seconds: float = 10) -> bool:
        """Wait for one call."""
        return self.calls.acquire(timeout=seconds)


@pytest.fixture
def start(client: redis.Redis) -> Iterator[type[Counting]]:
    """Start counting workers; they are stopped afterwards."""
    made: list[Counting] = []

    def begin(threads: int = 2) -> Counting:
        made.append(Counting(client, threads))
        return made[-1]

    yield begin  # type: ignore[misc]
    for one in made:
        one.gate.set()
        one.worker.stop(timeout=5000)


def test_every_ring_is_heard(client: redis.Redis, start: type[Counting]) -> None:
    """Rings before the start and after it each lead to one look."""
    bell = Bell(client, NAMESPACE)
    bell.ring(3)
    worker = start()
    assert all(worker.called() for _ in range(3))
    bell.ring()
    assert worker.called()


def test_redis_holds_a_list_and_nothing_else(client: redis.Redis, start: type[Counting]) -> None:
    """Sentinels until they are heard; not who heard them."""
    Bell(client, NAMESPACE).ring(20)
    assert client.keys(f"{NAMESPACE}:*") == [f"{NAMESPACE}:{QUEUE}".encode()]
    assert set(client.lrange(f"{NAMESPACE}:{QUEUE}", 0, -1)) == {b"look"}
    worker = start()
    assert all(worker.called() for _ in range(20))
    assert not client.keys(f"{NAMESPACE}:*")


def test_who_stops_leaves_what_it_has_not_answered(
    client: redis.Redis, start: type[Counting]
) -> None:
    """Heard in advance, it is another process's to answer."""
    busy = start(1)
    busy.gate.clear()
    Bell(client, NAMESPACE).ring(2)
    assert busy.called()
    until(lambda: not client.llen(f"{NAMESPACE}:{QUEUE}"))
    for thread in busy.worker.workers:
        thread.running = False
    busy.gate.set()
    busy.worker.stop(timeout=5000)
    assert client.lrange(f"{NAMESPACE}:{QUEUE}", 0, -1) == [b"look"]
    assert start().called()


def test_a_process_that_stops_leaves_what_it_hears(
    client: redis.Redis, start: type[Counting]
) -> None:
    """Also what wakes it from a wait that began before: others are there to answer."""
    resting = start()
    until(lambda: client.info("clients")["blocked_clients"])
    resting.worker.broker.is_resting = True
    Bell(client, NAMESPACE).ring(3)
    until(lambda: not client.info("clients")["blocked_clients"])
    free = start()
    assert all(free.called() for _ in range(3))
    assert not resting.calls.acquire(blocking=False)


def test_a_busy_process_leaves_rings_for_others(client: redis.Redis, start: type[Counting]) -> None:
    """With all threads at work, what cannot be handled now is heard by whoever is free."""
    busy = start(1)
    busy.gate.clear()
    bell = Bell(client, NAMESPACE)
    bell.ring()
    assert busy.called()
    bell.ring(6)
    free = start(2)
    assert all(free.called() for _ in range(3))


def test_a_flood_of_stale_rings_costs_one_look(client: redis.Redis, start: type[Counting]) -> None:
    """What was answered while every thread was at work need not be asked for ring by ring."""
    looks: list[str] = []

    def look_in_vain() -> bool:
        looks.append("look")
        return False

    worker = start(1)
    worker.worker.broker.is_work_due = look_in_vain  # type: ignore[attr-defined]
    bell = Bell(client, NAMESPACE)
    bell.ring(200)
    until(lambda: not client.llen(bell.list) and looks)
    bell.ring()
    assert worker.called()
    assert looks == ["look"]
    assert not worker.calls.acquire(blocking=False)


def test_rings_that_are_not_stale_are_all_heard(client: redis.Redis, start: type[Counting]) -> None:
    """While something is due, however many a process takes off to look, others find them again."""
    Bell(client, NAMESPACE).ring(100)
    workers = [start(1), start(1)]
    heard: list[Counting] = []

    def all_heard() -> bool:
        for worker in workers:
            while worker.calls.acquire(blocking=False):
                heard.append(worker)
        return len(heard) >= 100

    until(all_heard)
    assert len(heard) == 100


def test_a_look_that_meets_a_lost_database_is_tried_three_times(
    client: redis.Redis, start: type[Counting]
) -> None:
    """At most 3 attempts on transient database errors; then the sweep takes over."""
    worker = start()
    worker.failures = 10
    Bell(client, NAMESPACE).ring()
    assert all(worker.called(20) for _ in range(3))
    assert not worker.called(3)
    assert worker.failures == 7


def test_a_sentinel_says_how_often_its_look_has_failed() -> None:
    """So that three attempts are three whoever makes them; anything else is a plain look."""
    assert [read_sentinel(make_sentinel(failures)) for failures in (0, 1, 2)] == [0, 1, 2]
    assert {
        read_sentinel(what) for what in (b"", b"look x", b"look -1", b"look " + b"9" * 5000)
    } == {0}


def test_a_full_list_takes_no_more_sentinels(client: redis.Redis) -> None:
    """Memory stays flat behind workers that are away: one sentinel says as much as a million."""
    bell = Bell(client, NAMESPACE)
    bell.ring(LONGEST_QUEUE)
    for _ in range(100):
        bell.ring()
    assert client.llen(bell.list) == LONGEST_QUEUE + 1
    client.delete(bell.list)
    bell.ring()
    assert client.llen(bell.list) == 1


def test_a_consumer_that_waits_asks_for_nothing_else(
    client: redis.Redis, start: type[Counting]
) -> None:
    """While nothing comes it waits, again and again; each wait is one round trip."""

    def calls() -> dict[str, int]:
        stats = client.info("commandstats").items()
        ours = {"auth", "client", "config", "hello", "info", "ping"}
        return {
            name: said["calls"]
            for command, said in stats
            if (name := command.removeprefix("cmdstat_").partition("|")[0]) not in ours
        }

    client.config_resetstat()
    worker = start()
    until(lambda: calls().get("lpop", 0) >= 3)
    assert calls().keys() == {"blpop", "llen", "lpop"}
    Bell(client, NAMESPACE).ring()
    assert worker.called()


def test_a_thread_without_work_sleeps_until_a_message_or_the_end() -> None:
    """It is woken, and does not look around by itself."""
    waiting, got = WorkQueue(), SimpleQueue[object]()

    def wait() -> None:
        try:
            got.put(waiting.get(timeout=600))
        except Empty:
            got.put(None)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    waiting.put("message")
    assert got.get(timeout=10) == "message"
    waiting.close()
    assert got.get(timeout=10) is None
