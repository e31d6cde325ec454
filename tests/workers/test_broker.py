"""The waiting broker keeps Dramatiq's word, and wakes at once."""

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

import dramatiq
import pytest
import redis
from deployment import until

from greenroom.errors import DatabaseUnavailable
from greenroom.signals.bell import ACTOR, LONGEST_QUEUE, LOOK_EVERY, QUEUE, Bell
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


def test_what_was_answered_is_taken_off(client: redis.Redis, start: type[Counting]) -> None:
    """With a later look, or when the worker stops: nothing piles up in Redis."""
    worker = start()
    Bell(client, NAMESPACE).ring(20)
    assert all(worker.called() for _ in range(20))
    until(lambda: not client.keys(f"{NAMESPACE}:*{QUEUE}*"))
    worker.gate.clear()
    Bell(client, NAMESPACE).ring(2)
    assert all(worker.called() for _ in range(2))
    worker.gate.set()
    worker.worker.stop(timeout=5000)
    assert not client.keys(f"{NAMESPACE}:*{QUEUE}*")


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


def test_a_full_list_takes_no_more_sentinels(client: redis.Redis) -> None:
    """Memory stays flat behind workers that are away: one sentinel says as much as a million."""
    bell = Bell(client, NAMESPACE)
    bell.ring(LONGEST_QUEUE)
    for _ in range(3 * LOOK_EVERY):
        bell.ring()
    assert LONGEST_QUEUE <= client.llen(f"{NAMESPACE}:{QUEUE}") <= LONGEST_QUEUE + LOOK_EVERY


def test_a_consumer_that_waits_asks_for_nothing_else(
    client: redis.Redis, start: type[Counting]
) -> None:
    """While nothing comes, each look is one round trip: it waits, then fetches. A ring is heard."""

    def count(command: str) -> int:
        return int(client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])

    worker = start()
    until(lambda: count("blmove") >= 2)
    more = count("evalsha") - count("blmove")
    until(lambda: count("blmove") >= 6)
    # A look may be between its two commands.
    assert count("evalsha") - count("blmove") <= more + 2
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
