"""Runs, many of them: in the background, waited for, and all at once."""

import asyncio
from time import perf_counter

from benchmarks.counters import FLUSH_SECONDS
from benchmarks.load import TEXT, Load
from benchmarks.loop import Figures, closed_loop, milliseconds

WAIT_CLIENTS = (1, 10, 50)
STATELESS_CLIENTS = (1, 50)
LAST_RUNS = 40
"""Runs end roughly in the order in which they came: these tell when all have."""
TOUCHES = 40
KILOBYTE = 1024


async def throughput(load: Load) -> Figures:
    """Background runs on threads of their own, from the first request to the last run's end."""
    server = load.server
    threads = await load.new_threads(load.sizes.runs)
    looking = load.connect()
    await touch(load)
    commits = server.counters.read()["commits"]
    memory = server.processes.memory()
    counted, before = server.counters.read(), server.processes.now()

    runs = await load.start_many(threads, "echo", text=TEXT)
    accepted = perf_counter()
    ended = await load.await_end(looking, runs[: -LAST_RUNS - 1 : -1]) or accepted
    ended = await load.await_idle(looking) or ended
    spent, work = server.processes.since(before), server.counters.read() - counted
    if server.counters:
        await touch(load)
        commits = server.counters.read()["commits"] - commits
    # All have ended: this looks whether they ended well.
    await load.await_end(looking, runs)

    grown = server.processes.memory().pss_bytes - memory.pss_bytes
    seconds, per_thousand = ended - before.at, 1000 / len(runs)
    figures = {
        "runs": len(runs),
        "runs_per_s": len(runs) / seconds,
        "accepted_per_s": len(runs) / (accepted - before.at),
        "cpu_s_per_1000": spent.cpu_seconds * per_thousand,
        "cores": spent.cpu_seconds / seconds,
        "kb_per_run": grown / KILOBYTE / len(runs),
        "client_cores": spent.client_cores,
    }
    for part, cpu_seconds in spent.cpu.items():
        figures[f"cpu_s_per_1000.{part}"] = cpu_seconds * per_thousand
    if server.counters:
        for name in ("statements", "wal_bytes", "redis_commands"):
            figures[f"{name}_per_run"] = work[name] / len(runs)
        figures["commits_per_run"] = commits / (len(runs) + TOUCHES)
    return figures


async def touch(load: Load) -> None:
    """Have every connection of the server's pools used, after which Postgres knows their commits.

    What these runs commit themselves stays unknown in part, but for the same part before and after.
    """
    if load.server.counters:
        await asyncio.sleep(FLUSH_SECONDS)
        runs = await load.start_many(await load.new_threads(TOUCHES), "echo", text=TEXT)
        await load.await_end(load.connect(), runs)


async def wait(load: Load) -> Figures:
    """Runs that the client waits for, on threads of their own."""
    figures: Figures = {}
    for clients in WAIT_CLIENTS:
        threads: list[str | None] = [*await load.new_threads(requests_of(load, clients))]
        figures |= await wait_in_loop(load, clients, threads)
    return figures


async def stateless(load: Load) -> Figures:
    """The same without threads."""
    figures: Figures = {}
    for clients in STATELESS_CLIENTS:
        figures |= await wait_in_loop(load, clients, [None] * requests_of(load, clients))
    return figures


def requests_of(load: Load, clients: int) -> int:
    """How many requests a loop of so many clients makes at most."""
    if clients == 1:
        return load.sizes.requests_each
    return max(load.sizes.requests, 2 * clients)


async def wait_in_loop(load: Load, clients: int, threads: list[str | None]) -> Figures:
    """Let so many clients wait for run after run."""
    connections = load.connect_all(clients)

    async def one(client: int, number: int) -> bool:
        return await load.wait(connections[client], threads[number])

    taken, seconds = await closed_loop(clients, len(threads), load.sizes.loop_seconds, one)
    return {**milliseconds(f"{clients}", taken), f"{clients}.per_s": len(taken) / seconds}


async def slots(load: Load) -> Figures:
    """Many runs that do nothing but wait: how many the server carries at once."""
    sizes = load.sizes
    threads = await load.new_threads(sizes.slow_runs)
    begin = perf_counter()
    runs = await load.start_many(threads, "slow", seconds=sizes.slow_seconds)
    ended = await load.await_end(load.connect(), reversed(runs)) or perf_counter()
    return {
        "makespan_s": ended - begin,
        "in_flight": len(runs) * sizes.slow_seconds / (ended - begin),
    }
