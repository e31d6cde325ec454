"""The floor: the same graphs without a server, on langgraph's own Postgres saver.

A child of the harness, so that its CPU seconds are its own. Reads the settings and then names of
scenarios from standard input, a line each; answers each with a line of figures.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import uuid4

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.pregel import Pregel
from langgraph.types import StreamMode
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from benchmarks.client import run
from benchmarks.counters import FLUSH_SECONDS, Counters
from benchmarks.load import Load
from benchmarks.loop import Figures, closed_loop, milliseconds
from benchmarks.processes import Processes
from benchmarks.reads import probe_ok
from benchmarks.servers import Bare
from benchmarks.sizes import Sizes

SESSION = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
TEXT = "hello"
TOUCHES = 40


class Floor:
    """The scenarios that mean something without a server."""

    def __init__(self, settings: Mapping[str, Any], saver: AsyncPostgresSaver) -> None:
        self.sizes = Sizes(**settings["sizes"])
        self.folder = Path(settings["graphs"])
        self.saver = saver
        self.counters = Counters(settings["database_uri"], None)
        self.processes = Processes([os.getpid(), settings["postgres_pid"]])
        self.graphs: dict[str, Pregel[Any]] = {}

    def graph(self, name: str) -> Pregel[Any]:
        """Load a graph once."""
        if name not in self.graphs:
            spec = spec_from_file_location(name, self.folder / f"{name}.py")
            assert spec
            assert spec.loader
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            self.graphs[name] = module.graph.copy({"checkpointer": self.saver})
        return self.graphs[name]

    async def execute(self, graph: str, values: Any, mode: StreamMode) -> AsyncIterator[bytes]:
        """Run a graph on a new thread; what it streams, encoded as a server must."""
        events = self.graph(graph).astream(
            values, new_thread(), stream_mode=mode, durability="async"
        )
        async for event in events:
            yield orjson.dumps(event, default=dump)

    async def echo(self, _client: int = 0, _number: int = 0) -> bool:
        """Run the trivial graph to its end."""
        values = [each async for each in self.execute("echo", {"text": TEXT}, "values")]
        if TEXT[::-1].encode() not in values[-1]:
            raise RuntimeError(f"the graph answered {values[-1]!r}")
        return True

    async def warm_up(self) -> None:
        """Open the connections, prepare the statements."""
        await closed_loop(self.sizes.posting_clients, 60, 60, self.echo)

    async def touch(self) -> None:
        """As in runs.py: after this, Postgres knows what was committed before."""
        await asyncio.sleep(FLUSH_SECONDS)
        await closed_loop(self.sizes.posting_clients, TOUCHES, 60, self.echo)

    async def throughput(self) -> Figures:
        """Runs at the concurrency at which servers are asked for theirs."""
        runs = self.sizes.runs
        await self.touch()
        commits = self.counters.read()["commits"]
        counted, before = self.counters.read(), self.processes.now()
        _, seconds = await closed_loop(self.sizes.posting_clients, runs, 600, self.echo)
        spent, work = self.processes.since(before), self.counters.read() - counted
        await self.touch()
        commits = self.counters.read()["commits"] - commits
        return {
            "runs": runs,
            "runs_per_s": runs / seconds,
            "cpu_s_per_1000": spent.cpu_seconds * 1000 / runs,
            "cpu_s_per_1000.server": spent.cpu["server"] * 1000 / runs,
            "cpu_s_per_1000.postgres": spent.cpu["postgres"] * 1000 / runs,
            "cores": spent.cpu_seconds / seconds,
            "statements_per_run": work["statements"] / runs,
            "wal_bytes_per_run": work["wal_bytes"] / runs,
            "commits_per_run": commits / (runs + TOUCHES),
        }

    async def wait(self) -> Figures:
        """Run after run, by one, ten and fifty clients that are mere tasks."""
        figures: Figures = {}
        for clients, count in (
            (1, self.sizes.requests_each),
            (10, self.sizes.requests),
            (50, self.sizes.requests),
        ):
            taken, seconds = await closed_loop(clients, count, self.sizes.loop_seconds, self.echo)
            figures |= milliseconds(f"{clients}", taken)
            figures[f"{clients}.per_s"] = len(taken) / seconds
        return figures

    async def stream(self) -> Figures:
        """When the first value comes out of a run, and the end."""
        figures: Figures = {}
        for clients, count in ((1, self.sizes.requests_each), (20, self.sizes.requests)):
            firsts: list[float] = []

            async def one(_client: int, _number: int, firsts: list[float] = firsts) -> bool:
                begin = perf_counter()
                first = 0.0
                async for _ in self.execute("echo", {"text": TEXT}, "values"):
                    first = first or perf_counter()
                firsts.append(first - begin)
                return True

            ends, _ = await closed_loop(clients, count, self.sizes.loop_seconds, one)
            figures |= milliseconds(f"{clients}.first_event", firsts)
            figures |= milliseconds(f"{clients}.first_data", firsts)
            figures |= milliseconds(f"{clients}.end", ends)
        return figures

    async def tokens(self) -> Figures:
        """Events that graphs emit when nobody carries them anywhere."""
        sizes = self.sizes
        return {
            "one.events_per_s": await self.emit(1, sizes.events, "custom"),
            "ten.events_per_s": await self.emit(10, sizes.events_each, "custom"),
            "messages.events_per_s": await self.emit(1, sizes.message_events, "messages"),
        }

    async def emit(self, streams: int, count: int, mode: StreamMode) -> float:
        """Run graphs of `count` tokens at once, and divide by the time from first event to last."""
        values = {"count": count, "as_messages": mode == "messages"}

        async def read() -> tuple[int, float, float]:
            seen, first = 0, 0.0
            async for _ in self.execute("tokens", values, mode):
                seen, first = seen + 1, first or perf_counter()
            return seen, first, perf_counter()

        results = await asyncio.gather(*(read() for _ in range(streams)))
        seconds = max(last for _, _, last in results) - min(first for _, first, _ in results)
        return sum(seen for seen, _, _ in results) / seconds

    async def state(self) -> Figures:
        """Reading a thread through the graph."""
        figures: Figures = {}
        for name, checkpoints, payload_bytes in (
            ("small", self.sizes.checkpoints, 10),
            ("large", 12, self.sizes.payload_bytes),
        ):
            graph, config = self.graph("grow"), new_thread()
            values = {"steps": checkpoints - 2, "payload_bytes": payload_bytes}
            await graph.ainvoke(values, config, durability="async")
            reads = self.sizes.reads
            for what, clients, count, limit in (
                ("state", 1, reads, None),
                ("state_10", 10, 10 * reads, None),
                ("history_10", 1, reads // 4, 10),
                ("history_all", 1, reads // 5, checkpoints),
            ):
                one = reader(graph, config, limit)
                taken, seconds = await closed_loop(clients, count, self.sizes.loop_seconds, one)
                figures |= milliseconds(f"{name}.{what}", taken)
                figures[f"{name}.{what}.per_s"] = len(taken) / seconds
        return figures

    async def slots(self) -> Figures:
        """Runs that only wait, all at once."""
        graph, count = self.graph("slow"), self.sizes.slow_runs
        values = {"seconds": self.sizes.slow_seconds}
        begin = perf_counter()
        await asyncio.gather(
            *(graph.ainvoke(values, new_thread(), durability="async") for _ in range(count))
        )
        seconds = perf_counter() - begin
        return {"makespan_s": seconds, "in_flight": count * self.sizes.slow_seconds / seconds}

    async def idle(self) -> Figures:
        """What the smallest request takes of gunicorn and gevent: no framework, no streams."""
        with TemporaryDirectory() as folder:
            server = Bare(Path(folder))
            load = Load(server, self.sizes)
            try:
                server.start()
                return await probe_ok(load, "quiet")
            finally:
                load.close()
                server.stop()


def reader(
    graph: Pregel[Any], config: RunnableConfig, limit: int | None
) -> Callable[[int, int], Awaitable[bool]]:
    """Make a request of a closed loop: the state, or that many of the history."""

    async def one(_client: int, _number: int) -> bool:
        if limit is None:
            found = [await graph.aget_state(config)]
        else:
            found = [each async for each in graph.aget_state_history(config, limit=limit)]
        orjson.dumps([snapshot.values for snapshot in found])
        return True

    return one


def dump(value: Any) -> Any:
    """Encode what orjson cannot: messages."""
    return value.model_dump() if isinstance(value, BaseModel) else str(value)


def new_thread() -> RunnableConfig:
    """Name a thread that nobody has used."""
    return {"configurable": {"thread_id": str(uuid4())}, "recursion_limit": 1000}


async def main() -> None:
    """Measure what is asked for until nobody asks."""
    loop = asyncio.get_running_loop()
    settings = json.loads(sys.stdin.readline())
    pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
        settings["database_uri"], kwargs=SESSION, min_size=10, max_size=20, open=False
    )
    async with pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        floor = Floor(settings, saver)
        await floor.warm_up()
        print("{}", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            gc.collect()
            figures = await getattr(floor, line.strip())()
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    with run() as runner:
        runner.run(main())
