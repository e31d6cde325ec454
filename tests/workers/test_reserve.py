"""The second worker process is called when the first one's interpreter is the bottleneck."""

import os
import select
import threading
import time
from collections.abc import Iterator

import pytest

from greenroom_workers.reserve import BEHIND_SECONDS, Reserve, await_call

PATIENCE_SECONDS = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Where the other process waits, and where it is called; closed by who uses it."""
    waiting, calling = os.pipe()
    yield waiting, calling
    for end in (waiting, calling):
        try:
            os.close(end)
        except OSError:
            continue


def is_called(waiting: int) -> bool:
    return bool(select.select([waiting], [], [], 0)[0])


def work_until_called(reserve: Reserve, waiting: int) -> None:
    """Be busy, each run leaving another, as a full worker is."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not is_called(waiting):
        assert time.monotonic() < give_up_at
        reserve.note_end(is_work_left=True)


def test_a_busy_process_calls_and_gives_its_slots_away(pipe: tuple[int, int]) -> None:
    """Thread by thread, as they end their runs; one call is enough."""
    waiting, calling = pipe
    reserve = Reserve(2, calling)
    assert not reserve.wants_slot
    assert not reserve.takes_slot()
    work_until_called(reserve, waiting)
    assert os.read(waiting, 10) == b"\0"
    assert [reserve.takes_slot() for _ in range(3)] == [True, True, False]
    assert reserve.slots == 0
    reserve.note_end(is_work_left=True)
    assert os.read(waiting, 10) == b""


def test_nobody_is_called_for_runs_that_wait_for_something_else(pipe: tuple[int, int]) -> None:
    """Full all the time, and hardly at work: another interpreter would wait as well."""
    waiting, calling = pipe
    reserve, pause = Reserve(2, calling), threading.Event()
    give_up_at = time.monotonic() + 3 * BEHIND_SECONDS
    while time.monotonic() < give_up_at:
        pause.wait(0.05)
        reserve.note_end(is_work_left=True)
    assert not is_called(waiting)


def test_nobody_is_called_as_long_as_the_queue_runs_empty(pipe: tuple[int, int]) -> None:
    """Bursts that one process gets through."""
    waiting, calling = pipe
    reserve = Reserve(2, calling)
    give_up_at = time.monotonic() + 3 * BEHIND_SECONDS
    while time.monotonic() < give_up_at:
        for _ in range(50):
            reserve.note_end(is_work_left=True)
        reserve.note_end(is_work_left=False)
    assert not is_called(waiting)


def test_the_other_process_works_when_the_first_is_gone(pipe: tuple[int, int]) -> None:
    """Nobody is left who could call it."""
    waiting, calling = pipe
    waiter = threading.Thread(target=await_call, args=(waiting,), daemon=True)
    waiter.start()
    os.close(calling)
    waiter.join(PATIENCE_SECONDS)
    assert not waiter.is_alive()


def test_a_call_that_nobody_hears_harms_nobody(pipe: tuple[int, int]) -> None:
    """The other process is dead, and what follows it is at work already."""
    waiting, calling = pipe
    reserve = Reserve(1, calling)
    os.close(waiting)
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not reserve.wants_slot:
        assert time.monotonic() < give_up_at
        reserve.note_end(is_work_left=True)
    assert reserve.takes_slot()
