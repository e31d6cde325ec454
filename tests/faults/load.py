"""Clients at work for as long as a scenario lasts, each checking what it is answered."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus

import httpx
from clients import new_thread_once, post_once
from deployment import until
from ledger import TERMINAL, Ledger

Client = Callable[[httpx.Client, Ledger], None]


class Pace:
    """Lets so many through in a second, whoever they are."""

    def __init__(self, per_second: float) -> None:
        self.gap_seconds = 1 / per_second
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def wait_for_turn(self, stopped: threading.Event) -> None:
        """Return when it is the caller's turn; turns that were missed are not made up for."""
        with self._lock:
            self._next = max(self._next + self.gap_seconds, time.monotonic())
            turn = self._next
        stopped.wait(max(0.0, turn - time.monotonic()))


@contextmanager
def working(
    clients: Sequence[Client],
    http: httpx.Client,
    ledger: Ledger,
    *,
    each: int = 2,
    per_second: float = 1000.0,
) -> Iterator[list[int]]:
    """Have clients at work during the block; at its end raises what one of them raised.

    Yields how often each of them came to its end.
    """
    pace = Pace(per_second)
    stopped = threading.Event()
    done = [0] * (len(clients) * each)

    def repeat(place: int, client: Client) -> None:
        while not stopped.is_set():
            client(http, ledger)
            done[place] += 1
            pace.wait_for_turn(stopped)

    with ThreadPoolExecutor(len(done)) as pool:
        futures: list[Future[None]] = [
            pool.submit(repeat, place, clients[place % len(clients)]) for place in range(len(done))
        ]
        try:
            yield done
        finally:
            stopped.set()
    for future in futures:
        future.result()


def work() -> dict[str, float]:
    """Input for a run of the graph `steps`."""
    return {"n": 3, "seconds": random.uniform(0, 0.3)}


def create(http: httpx.Client, ledger: Ledger) -> None:
    """Make a background run, and look at it until it is over."""
    thread_id = new_thread_once(http)
    run = post_once(http, f"/threads/{thread_id}/runs", {"assistant_id": "steps", "input": work()})
    ledger.accept(run)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    assert http.get(f"{path}/join").json()["trail"] == [0, 1, 2]
    assert http.get(path).json()["status"] == "success"


def wait(http: httpx.Client, ledger: Ledger) -> None:
    """Make a run and wait for its answer."""
    thread_id = new_thread_once(http)
    body = {"assistant_id": "steps", "input": work()}
    assert post_once(http, f"/threads/{thread_id}/runs/wait", body)["trail"] == [0, 1, 2]
    (run,) = http.get(f"/threads/{thread_id}/runs").json()
    ledger.accept(run)


def wait_stateless(http: httpx.Client, _ledger: Ledger) -> None:
    """Make a run without a thread and wait for its output."""
    body = {"assistant_id": "steps", "input": work()}
    assert post_once(http, "/runs/wait", body)["trail"] == [0, 1, 2]


def stream(http: httpx.Client, ledger: Ledger) -> None:
    """Make a run and read its events to the end, on as many connections as it takes."""
    thread_id = new_thread_once(http)
    body = {
        "assistant_id": "steps",
        "input": work(),
        "stream_mode": ["custom", "values"],
        "stream_resumable": True,
    }
    run = post_once(http, f"/threads/{thread_id}/runs", body)
    ledger.accept(run, steps=3)
    reading = ledger.read(http, run)
    numbers = [int(event_id.rpartition("-")[2]) for event_id in reading.ids]
    assert numbers == list(range(len(numbers))), "a gap or a repeat"
    assert reading.steps[-1] == 2


def converse(http: httpx.Client, ledger: Ledger) -> None:
    """Queue runs on one thread: each of them leaves its word there, once and in order."""
    thread_id = new_thread_once(http)
    words = ["one", "two", "three"]
    for word in words:
        body = {"assistant_id": "echo", "input": {"text": word}}
        run = ledger.accept(post_once(http, f"/threads/{thread_id}/runs", body))
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    assert http.get(f"{path}/join").json()["trail"] == words


def cancel(http: httpx.Client, ledger: Ledger) -> None:
    """Cancel a run early or late: when the server accepts that, the run is interrupted."""
    thread_id = new_thread_once(http)
    body = {"assistant_id": "steps", "input": work()}
    run = ledger.accept(post_once(http, f"/threads/{thread_id}/runs", body))
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    time.sleep(random.uniform(0, 0.8))
    status = http.post(f"{path}/cancel").status_code
    assert status in {HTTPStatus.ACCEPTED, HTTPStatus.NOT_FOUND}
    end = until(lambda: {http.get(path).json()["status"]} & TERMINAL, 60).pop()
    assert end == "interrupted" or (status, end) == (HTTPStatus.NOT_FOUND, "success")
    assert http.get(f"/threads/{thread_id}").json()["status"] in {"idle", "interrupted"}
