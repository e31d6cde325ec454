"""How much of a run's events is in the log, and who waits for more."""

import asyncio
import threading


class Kept:
    """Told on the I/O loop, waited for on the run's own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_seq = 0
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def tell(self, next_seq: int) -> None:
        """Whatever comes before this number is in the log, or will never be."""
        with self._lock:
            self._next_seq = next_seq
            ready = [waiting for waiting in self._waiting if waiting[0] <= next_seq]
            self._waiting = [waiting for waiting in self._waiting if waiting[0] > next_seq]
        for _, loop, done in ready:
            loop.call_soon_threadsafe(resolve, done)

    async def wait(self, next_seq: int) -> None:
        """Wait until everything before a number is in the log."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._next_seq >= next_seq:
                return
            done = loop.create_future()
            self._waiting.append((next_seq, loop, done))
        await done


def resolve(done: "asyncio.Future[None]") -> None:
    """Wake whoever waits, if they still do."""
    if not done.done():
        done.set_result(None)
