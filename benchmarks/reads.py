"""Small requests: of a thread's state and history, and beside nodes that block."""

import asyncio
from time import perf_counter
from typing import Any

from benchmarks.client import Connection
from benchmarks.load import Load
from benchmarks.loop import Figures, closed_loop, milliseconds

PAUSE_SECONDS = 0.004


async def state(load: Load) -> Figures:
    """Reading a thread: one with many small checkpoints, and one with a large state."""
    sizes, connection = load.sizes, load.connect()
    figures: Figures = {}
    # The input and the start have a checkpoint each, too.
    for name, checkpoints, payload_bytes in (
        ("small", sizes.checkpoints, 10),
        ("large", 12, sizes.payload_bytes),
    ):
        thread_id = await load.new_thread(connection)
        run = await load.start(
            connection, thread_id, "grow", steps=checkpoints - 2, payload_bytes=payload_bytes
        )
        await load.await_end(connection, [run])
        path = f"/threads/{thread_id}"
        found = await load.need(connection, "POST", f"{path}/history", {"limit": 1000})
        figures[f"{name}.checkpoints"] = len(found)
        if len(found) != checkpoints:
            load.blame("history", f"{len(found)} checkpoints, not {checkpoints}")
        for what, clients, count, method, suffix, body in (
            ("state", 1, sizes.reads, "GET", "state", None),
            ("state_10", 10, 10 * sizes.reads, "GET", "state", None),
            ("history_10", 1, sizes.reads // 4, "POST", "history", {"limit": 10}),
            ("history_all", 1, sizes.reads // 5, "POST", "history", {"limit": checkpoints}),
        ):
            figures |= await read_in_loop(
                load, f"{name}.{what}", clients, count, (method, f"{path}/{suffix}", body)
            )
    return figures


async def read_in_loop(
    load: Load, name: str, clients: int, count: int, request: tuple[str, str, Any]
) -> Figures:
    """Let so many clients send one request again and again."""
    connections = load.connect_all(clients)

    async def one(client: int, _: int) -> bool:
        return await load.ask(connections[client], *request) is not None

    taken, seconds = await closed_loop(clients, count, load.sizes.loop_seconds, one)
    return {**milliseconds(name, taken), f"{name}.per_s": len(taken) / seconds}


async def blocking(load: Load) -> Figures:
    """Small requests while some runs block the thread that they are on."""
    sizes, connection = load.sizes, load.connect()
    figures = await probe_neighbours(load, "quiet", sizes.blocking_seconds)
    threads = await load.new_threads(sizes.blocking_runs)
    begin = perf_counter()
    runs = [
        await load.start(connection, thread_id, "blocking", seconds=sizes.blocking_seconds)
        for thread_id in threads
    ]
    figures |= await probe_neighbours(load, "blocked", 0.8 * sizes.blocking_seconds)
    ended = await load.await_end(connection, runs) or perf_counter()
    return {**figures, "makespan_s": ended - begin}


async def probe_neighbours(load: Load, name: str, seconds: float) -> Figures:
    """Ask for the health and make threads for a while, from two clients at once."""
    connections, end = load.connect_all(2), perf_counter() + seconds

    oks, posts = await asyncio.gather(
        repeat(load, connections[0], ("GET", load.server.ok_path, None), end),
        repeat(load, connections[1], ("POST", "/threads", {}), end),
    )
    return {**milliseconds(f"{name}.ok", oks), **milliseconds(f"{name}.post", posts)}


async def probe_ok(load: Load, name: str) -> Figures:
    """Ask for the health again and again."""
    end = perf_counter() + load.sizes.probe_seconds
    request = ("GET", load.server.ok_path, None)
    return milliseconds(f"{name}.ok", await repeat(load, load.connect(), request, end))


async def repeat(
    load: Load, connection: Connection, request: tuple[str, str, Any], end: float
) -> list[float]:
    """Send one request until a time, with short pauses; the seconds of each."""
    taken = []
    while perf_counter() < end:
        begin = perf_counter()
        if await load.ask(connection, *request):
            taken.append(perf_counter() - begin)
        await asyncio.sleep(PAUSE_SECONDS)
    return taken
