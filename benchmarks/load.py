"""The client's side of a scenario: connections, checked requests, runs that are awaited."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.client import Answer, Broken, Connection, Events
from benchmarks.loop import FEWEST, closed_loop
from benchmarks.servers import HttpServer
from benchmarks.sizes import Sizes
from greenroom.cli.engine import LOOPBACK

PATIENCE_SECONDS = 180.0
"""Runs that take longer are errors."""
LOOK_SECONDS = 0.03
TEXT = "hello"


class Run(NamedTuple):
    """A background run."""

    thread_id: str
    run_id: str

    @property
    def path(self) -> str:
        """Where it is asked for."""
        return f"/threads/{self.thread_id}/runs/{self.run_id}"


class Load:
    """Everything that a scenario needs of one server."""

    def __init__(self, server: HttpServer, sizes: Sizes) -> None:
        self.server = server
        self.sizes = sizes
        self.errors: Counter[str] = Counter()
        self.connections: list[Connection] = []

    def connect(self) -> Connection:
        """Make a connection, to be opened by its first request and closed with the scenario."""
        connection = Connection(LOOPBACK, self.server.port)
        self.connections.append(connection)
        return connection

    def connect_all(self, count: int) -> list[Connection]:
        """Make several."""
        return [self.connect() for _ in range(count)]

    def close(self) -> None:
        """Cut every connection."""
        for connection in self.connections:
            connection.close()
        self.connections.clear()

    def blame(self, what: str, why: object = "") -> None:
        """Count an error; figures of a scenario with errors are worth nothing."""
        self.errors[f"{what}: {why}"[:200]] += 1

    async def ask(
        self, connection: Connection, method: str, path: str, body: Any = None
    ) -> Answer | None:
        """Send a request that must succeed; None when it did not, which is counted."""
        try:
            answer = await connection.request(method, path, body)
        except (Broken, OSError) as error:
            self.blame(f"{method} {shape(path)}", error)
            return None
        if not answer.is_good:
            self.blame(f"{method} {shape(path)}", f"{answer.status} {answer.body[:120]!r}")
            return None
        return answer

    async def need(self, connection: Connection, method: str, path: str, body: Any = None) -> Any:
        """As `ask`, decoded, where nothing can go on without it.

        Raises:
            Broken: it did not succeed.
        """
        answer = await self.ask(connection, method, path, body)
        if answer is None:
            raise Broken(f"{method} {shape(path)} failed")
        return answer.json()

    async def new_thread(self, connection: Connection) -> str:
        """Make a thread."""
        thread_id: str = (await self.need(connection, "POST", "/threads", {}))["thread_id"]
        return thread_id

    async def new_threads(self, count: int) -> list[str]:
        """Make many, ten at a time."""
        connections = self.connect_all(10)
        made: list[str] = []

        async def one(client: int, _: int) -> bool:
            made.append(await self.new_thread(connections[client]))
            return True

        await closed_loop(len(connections), count, PATIENCE_SECONDS, one)
        return made

    async def start(
        self,
        connection: Connection,
        thread_id: str,
        graph: str,
        *,
        mode: str | None = None,
        **values: Any,
    ) -> Run:
        """Start a background run; `mode` is the stream mode that readers will want."""
        body = {"assistant_id": graph, "input": values, "config": {"recursion_limit": 1000}}
        if mode:
            body["stream_mode"] = [mode]
        run = await self.need(connection, "POST", f"/threads/{thread_id}/runs", body)
        return Run(thread_id, run["run_id"])

    async def start_many(self, threads: Sequence[str], graph: str, **values: Any) -> list[Run]:
        """Start one on each thread, as many clients at once as `sizes` says."""
        connections = self.connect_all(self.sizes.posting_clients)
        runs: list[Run] = []

        async def one(client: int, number: int) -> bool:
            runs.append(await self.start(connections[client], threads[number], graph, **values))
            return True

        await closed_loop(len(connections), len(threads), PATIENCE_SECONDS, one)
        return runs

    async def await_end(self, connection: Connection, runs: Iterable[Run]) -> float | None:
        """Ask one after the other until each has ended well.

        Returns:
            When the last one that was seen unfinished had ended; None: all had before they were
            first asked for.
        """
        ended_at = None
        give_up = perf_counter() + PATIENCE_SECONDS
        for run in runs:
            while (status := await self.status_of(connection, run)) in {"pending", "running"}:
                if perf_counter() > give_up:
                    break
                await asyncio.sleep(LOOK_SECONDS)
                ended_at = perf_counter()
            if status != "success":
                self.blame("run", status)
        return ended_at

    async def await_idle(self, connection: Connection) -> float | None:
        """Ask until no thread has work.

        Returns:
            When there was none any more; None: at the first question already.
        """
        idle_at = None
        give_up = perf_counter() + PATIENCE_SECONDS
        body = {"status": "busy", "limit": 1}
        while await self.need(connection, "POST", "/threads/search", body):
            if perf_counter() > give_up:
                raise Broken("runs do not end")
            await asyncio.sleep(LOOK_SECONDS)
            idle_at = perf_counter()
        return idle_at

    async def status_of(self, connection: Connection, run: Run) -> str:
        """Ask how a run is."""
        answer = await self.ask(connection, "GET", run.path)
        return str(answer.json()["status"]) if answer else "unknown"

    async def wait(self, connection: Connection, thread_id: str | None) -> bool:
        """Have one trivial run executed and wait for its answer, on a thread or without."""
        path = f"/threads/{thread_id}/runs/wait" if thread_id else "/runs/wait"
        body = {"assistant_id": "echo", "input": {"text": TEXT}}
        answer = await self.ask(connection, "POST", path, body)
        if answer is None:
            return False
        values = answer.json()
        if not isinstance(values, dict) or values.get("echo") != TEXT[::-1]:
            self.blame("wait", f"answered {answer.body[:120]!r}")
            return False
        return True

    async def warm_up(self) -> None:
        """Execute some runs, so that no code, no plan and no connection is cold."""
        threads = await self.new_threads(self.sizes.warm_up_runs)
        runs = await self.start_many(threads, "echo", text=TEXT)
        connection = self.connect()
        await self.await_end(connection, runs)
        for thread_id in threads[:FEWEST]:
            await self.wait(connection, thread_id)
            await self.wait(connection, None)
            await self.ask(connection, "GET", f"/threads/{thread_id}/state")

    async def stream(
        self, connection: Connection, thread_id: str, events: Events, body: Any
    ) -> Answer | None:
        """Execute a run and count its events to the end of the stream."""
        try:
            path = f"/threads/{thread_id}/runs/stream"
            answer = await connection.stream("POST", path, body, events=events)
        except (Broken, OSError) as error:
            self.blame("stream", error)
            return None
        if not answer.is_good or events.errors or events.first is None:
            self.blame("stream", f"{answer.status}, {events.errors} errors, {answer.body[:120]!r}")
            return None
        return answer


def shape(path: str) -> str:
    """A path without its ids, so that errors of one kind are counted together."""
    plain = path.partition("?")[0]
    return "/".join("*" if len(part) == 36 else part for part in plain.split("/"))
