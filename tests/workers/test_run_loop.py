"""The event loop of a run: quick for its own work, and fair to other threads."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from greenroom_workers.run_loop import RunLoop

PATIENCE_SECONDS = 30.0
TURNS = 300


@contextmanager
def run_loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=RunLoop) as runner:
        yield runner


async def busy_until(is_done: threading.Event) -> bool:
    """Keep the loop busy with its own work alone; whether the event came."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE_SECONDS
    while not is_done.is_set() and loop.time() < give_up_at:  # noqa: ASYNC110 (to be busy)
        await asyncio.sleep(0)
    return is_done.is_set()


def test_a_busy_loop_hears_its_sockets() -> None:
    async def hear() -> bool:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            heard = threading.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(ours, heard.set)
            theirs.send(b".")
            is_heard = await busy_until(heard)
            loop.remove_reader(ours)
            return is_heard

    with run_loop() as runner:
        assert runner.run(hear())


def test_a_busy_loop_lets_other_threads_work() -> None:
    is_done = threading.Event()

    def work() -> None:
        reading, writing = os.pipe()
        for _ in range(TURNS):
            # Either call gives the interpreter away, and must get it back.
            os.write(writing, b".")
            os.read(reading, 1)
        os.close(reading)
        os.close(writing)
        is_done.set()

    thread = threading.Thread(target=work)
    with run_loop() as runner:
        thread.start()
        assert runner.run(busy_until(is_done))
    thread.join()


def test_calls_from_the_own_thread_keep_their_order() -> None:
    async def called() -> list[int]:
        loop, numbers, is_last = asyncio.get_running_loop(), list[int](), asyncio.Event()
        for number in range(TURNS):
            schedule = loop.call_soon_threadsafe if number % 2 else loop.call_soon
            schedule(numbers.append, number)
        loop.call_soon_threadsafe(is_last.set)
        await is_last.wait()
        return numbers

    with run_loop() as runner:
        assert runner.run(called()) == list(range(TURNS))


def test_a_call_from_another_thread_wakes_an_idle_loop() -> None:
    async def wait_to_be_woken() -> bool:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set,))
        loop.call_later(0.01, thread.start)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await woken.wait()
        thread.join()
        return woken.is_set()

    with run_loop() as runner:
        assert runner.run(wait_to_be_woken())


def test_no_call_is_lost_while_sockets_come_and_go() -> None:
    """However a loop waits at that moment, whoever calls wakes it."""

    async def answered() -> int:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        count = 0
        with ours, theirs:
            ours.setblocking(False)
            for number in range(TURNS):
                called = loop.create_future()
                asked.put((loop, called))
                if number % 3:
                    loop.add_reader(ours, theirs.fileno)
                await asyncio.wait_for(called, PATIENCE_SECONDS)
                loop.remove_reader(ours)
                count += 1
        asked.put(None)
        return count

    def answer() -> None:
        while (one := asked.get()) is not None:
            loop, called = one
            loop.call_soon_threadsafe(called.set_result, None)

    asked: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None] = (
        SimpleQueue()
    )
    thread = threading.Thread(target=answer)
    thread.start()
    with run_loop() as runner:
        assert runner.run(answered()) == TURNS
    thread.join()


def test_a_call_between_two_waits_is_not_slept_over() -> None:
    """It comes while the loop is at work, which then must not wait, with sockets or none."""

    async def heard(has_socket: bool) -> None:
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if has_socket:
                loop.add_reader(ours, theirs.fileno)
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(called.set,))
            thread.start()
            thread.join()
            await asyncio.wait_for(called.wait(), PATIENCE_SECONDS)
            loop.remove_reader(ours)

    with run_loop() as runner:
        for has_socket in (False, True, False):
            runner.run(heard(has_socket))


def test_a_graph_may_start_a_process() -> None:
    async def told() -> bytes:
        argv = (sys.executable, "-c", "print('done', end='')")
        child = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        output, _ = await asyncio.wait_for(child.communicate(), PATIENCE_SECONDS)
        return output

    def run() -> None:
        with run_loop() as runner:
            heard.append(runner.run(told()))

    heard: list[bytes] = []
    # As runs have it: not the main thread.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert heard == [b"done"]
