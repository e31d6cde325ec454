"""What a server takes that has nothing to do: just started, or with open streams."""

import asyncio
from contextlib import suppress
from time import perf_counter
from typing import NamedTuple

from benchmarks.client import Answer, Broken, Connection, Events
from benchmarks.load import Load, Run
from benchmarks.loop import Figures
from benchmarks.processes import MEGABYTE
from benchmarks.reads import probe_ok

IDLE_RUNS = 5
OPENING_BATCH = 50
KILOBYTE = 1024
LOOK_SECONDS = 0.01


async def start(load: Load) -> Figures:
    """What a start takes on kept data, and what an idle server holds."""
    server = load.server
    await asyncio.sleep(load.sizes.probe_seconds)
    before = server.processes.now()
    await asyncio.sleep(load.sizes.probe_seconds)
    memory = server.processes.memory()
    return {
        "start_s": server.start_seconds,
        "idle_cores": server.processes.since(before).cpu_seconds / load.sizes.probe_seconds,
        "own_pss_mb": memory.own_pss_bytes / MEGABYTE,
        "pss_mb": memory.pss_bytes / MEGABYTE,
        "rss_mb": memory.rss_bytes / MEGABYTE,
        "processes": memory.processes,
    }


async def idle(load: Load) -> Figures:
    """Streams on which nothing happens, and how the server answers others meanwhile."""
    sizes, processes = load.sizes, load.server.processes
    connection = load.connect()
    runs = [
        await load.start(connection, await load.new_thread(connection), "slow", seconds=600)
        for _ in range(IDLE_RUNS)
    ]
    figures = await probe_ok(load, "quiet")
    memory = processes.memory()
    streams: list[OpenStream] = []
    for name, count in (("few", sizes.few_streams), ("many", sizes.many_streams)):
        opening = perf_counter()
        await open_streams(load, runs, count, streams)
        figures[f"{name}.opening_s"] = perf_counter() - opening
        before = processes.now()
        await asyncio.sleep(sizes.idle_seconds)
        figures[f"{name}.cores"] = processes.since(before).cpu_seconds / sizes.idle_seconds
        grown = processes.memory().pss_bytes - memory.pss_bytes
        figures |= await probe_ok(load, name)
        figures[f"{name}.streams"] = held = sum(stream.is_held for stream in streams)
        figures[f"{name}.kb_each"] = grown / KILOBYTE / max(held, 1)
        if held < count:
            load.blame("idle", f"{held} of {count} streams are open")
    for stream in streams:
        stream.reading.cancel()
    await asyncio.gather(*(stream.reading for stream in streams), return_exceptions=True)
    load.close()
    for run in runs:
        with suppress(Broken, OSError):
            await load.connect().request("POST", f"{run.path}/cancel?wait=0", seconds=20)
    return figures


class OpenStream(NamedTuple):
    """A stream, and whoever reads it."""

    connection: Connection
    reading: asyncio.Task[Answer]

    @property
    def is_held(self) -> bool:
        """Whether the server has begun to answer, and has not ended."""
        opened = self.connection.opened
        return opened is not None and opened.done() and not self.reading.done()


async def open_streams(load: Load, runs: list[Run], count: int, streams: list[OpenStream]) -> None:
    """Open streams, in batches, until there are `count`, or the time for that is over."""
    give_up = perf_counter() + load.sizes.stream_opening_seconds
    while len(streams) < count:
        for connection in load.connect_all(min(OPENING_BATCH, count - len(streams))):
            path = f"{runs[len(streams) % len(runs)].path}/stream"
            reading = connection.stream("GET", path, events=Events("values"))
            streams.append(OpenStream(connection, asyncio.create_task(reading)))
        while not all(stream.is_held for stream in streams[-OPENING_BATCH:]):
            if perf_counter() > give_up:
                return
            await asyncio.sleep(LOOK_SECONDS)
