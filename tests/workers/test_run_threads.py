"""The threads of a run's sync nodes: as many as it takes, used again, gone with their loop."""

import asyncio
import gc
import threading
import weakref

import pytest
from deployment import until

from greenroom_workers.run_loop import RunLoop
from greenroom_workers.run_threads import LARGEST_FAN_OUT


def node_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "node"}


def test_a_call_answers_or_raises_where_it_is_awaited() -> None:
    """What it returns, what it raises, also what no future may hold."""

    def fail(error: BaseException) -> None:
        raise error

    async def work() -> None:
        assert await asyncio.to_thread(lambda: 7) == 7
        with pytest.raises(ValueError, match="of the node"):
            await asyncio.to_thread(fail, ValueError("of the node"))
        with pytest.raises(RuntimeError, match="StopIteration") as raised:
            await asyncio.to_thread(fail, StopIteration())
        assert isinstance(raised.value.__cause__, StopIteration)

    with asyncio.Runner(loop_factory=RunLoop) as runner:
        runner.run(work())


def test_one_thread_serves_one_call_after_another() -> None:
    async def work() -> set[int]:
        return {await asyncio.to_thread(threading.get_ident) for _ in range(20)}

    with asyncio.Runner(loop_factory=RunLoop) as runner:
        assert len(runner.run(work())) == 1


def test_calls_work_at_the_same_time_and_the_rest_waits_its_turn() -> None:
    """More than there may be threads: all are answered, in the end by the same threads."""
    together = threading.Barrier(LARGEST_FAN_OUT)

    async def work() -> list[int]:
        first = [asyncio.to_thread(together.wait, 20) for _ in range(LARGEST_FAN_OUT)]
        more = [asyncio.to_thread(threading.get_ident) for _ in range(LARGEST_FAN_OUT)]
        return (await asyncio.gather(*first, *more))[LARGEST_FAN_OUT:]

    before = node_threads()
    with asyncio.Runner(loop_factory=RunLoop) as runner:
        idents = runner.run(work())
        assert set(idents) <= {thread.ident for thread in node_threads() - before}
        assert len(node_threads() - before) == LARGEST_FAN_OUT


def test_what_was_cancelled_while_it_waited_is_never_called() -> None:
    gate, calls = threading.Event(), []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        blocked = [loop.run_in_executor(None, gate.wait, 20) for _ in range(LARGEST_FAN_OUT)]
        waiting = loop.run_in_executor(None, calls.append, "cancelled")
        last = loop.run_in_executor(None, calls.append, "last")
        waiting.cancel()
        gate.set()
        await asyncio.gather(*blocked, last)

    with asyncio.Runner(loop_factory=RunLoop) as runner:
        runner.run(work())
    assert calls == ["last"]


def test_threads_know_who_is_at_work() -> None:
    """A run that has ended leaves none behind, or is seen to."""
    gate, begun = threading.Event(), threading.Event()

    async def work(loop: RunLoop) -> None:
        def block() -> None:
            begun.set()
            gate.wait(20)

        blocked = loop.run_in_executor(None, block)
        await loop.run_in_executor(None, begun.wait, 20)
        assert len(loop.nodes.busy) == 1
        gate.set()
        await blocked
        assert not loop.nodes.busy

    loop = RunLoop()
    loop.run_until_complete(work(loop))
    loop.close()


def test_threads_end_when_nobody_can_call_them_any_more() -> None:
    """Those that wait, and those that are still at work then."""
    before, gate, begun = node_threads(), threading.Event(), threading.Event()

    async def work() -> None:
        await asyncio.gather(*(asyncio.to_thread(int) for _ in range(3)))

    loop = RunLoop()
    loop.run_until_complete(work())
    loop.run_in_executor(None, lambda: (begun.set(), gate.wait(20)))
    assert begun.wait(20)
    gone = weakref.ref(loop.nodes)
    loop.close()
    del loop
    gate.set()

    def are_gone() -> bool:
        gc.collect()
        return gone() is None and not node_threads() - before

    until(are_gone)
