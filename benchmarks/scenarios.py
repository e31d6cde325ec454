"""What is measured of a server that speaks HTTP. Each scenario returns its figures by name."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple
from uuid import uuid4

from benchmarks.client import Answer, Broken, Connection, Events
from benchmarks.counters import FLUSH_SECONDS
from benchmarks.load import TEXT, Load, Run
from benchmarks.loop import Figures, closed_loop, milliseconds
from benchmarks.processes import MEGABYTE

WAIT_CLIENTS = (1, 10, 50)
STATELESS_CLIENTS = (1, 50)
STREAM_CLIENTS = (1, 20)
LAST_RUNS = 40
"""Runs end roughly in the order in which they came: these tell when all have."""
TOUCHES = 40
IDLE_RUNS = 5
OPENING_BATCH = 50
KILOBYTE = 1024
PAUSE_SECONDS = 0.004
LOOK_SECONDS = 0.01
MEMORY_SECONDS = 0.1
REPLAY_SECONDS = 120.0
"""Longer readings are errors."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to measure."""

    measure: Callable[[Load], Coroutine[Any, Any, Figures]]
    has_floor: bool = False
    """It means something without a server, too: see floor.py."""
    wants_restart: bool = False
    """It tells about a process that has done nothing yet."""
    has_slots: bool = False
    """It wants a slot for each of its runs."""


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


async def stream(load: Load) -> Figures:
    """Runs that are streamed: when the first byte, event and values come, and the end."""
    figures: Figures = {}
    for clients in STREAM_CLIENTS:
        connections = load.connect_all(clients)
        threads = await load.new_threads(requests_of(load, clients))
        seen: dict[str, list[float]] = {
            name: [] for name in ("first_byte", "first_event", "first_data", "end")
        }
        body = {"assistant_id": "echo", "input": {"text": TEXT}, "stream_mode": ["values"]}

        # Bound here: each level has its own.
        async def one(
            client: int,
            number: int,
            connections: list[Connection] = connections,
            threads: list[str] = threads,
            seen: dict[str, list[float]] = seen,
            body: dict[str, Any] = body,
        ) -> bool:
            events, begin = Events("values"), perf_counter()
            answer = await load.stream(connections[client], threads[number], events, body)
            if answer is None or events.first is None or events.first_data is None:
                return False
            seen["first_byte"].append(answer.first_byte - begin)
            seen["first_event"].append(events.first - begin)
            seen["first_data"].append(events.first_data - begin)
            seen["end"].append(perf_counter() - begin)
            return True

        await closed_loop(clients, len(threads), load.sizes.loop_seconds, one)
        for name, seconds in seen.items():
            figures |= milliseconds(f"{clients}.{name}", seconds)
    return figures


async def tokens(load: Load) -> Figures:
    """Events that reach clients: of one run, of ten at once, and of a model's message."""
    sizes = load.sizes
    return {
        "one.events_per_s": await events_per_second(load, 1, sizes.events, "custom"),
        "ten.events_per_s": await events_per_second(load, 10, sizes.events_each, "custom"),
        "messages.events_per_s": await events_per_second(
            load, 1, sizes.message_events, "messages-tuple"
        ),
    }


async def events_per_second(load: Load, streams: int, count: int, mode: str) -> float:
    """Stream runs of `count` tokens each, and divide by the time from first event to last."""
    threads = await load.new_threads(streams)
    as_messages = mode != "custom"
    body = {
        "assistant_id": "tokens",
        "input": {"count": count, "as_messages": as_messages},
        "stream_mode": [mode],
    }
    all_events = [Events("messages" if as_messages else "custom") for _ in threads]
    begin = perf_counter()
    await asyncio.gather(
        *(
            load.stream(load.connect(), thread_id, events, body)
            for thread_id, events in zip(threads, all_events, strict=True)
        )
    )
    for events in all_events:
        # A model's last chunk, or its whole message, may follow the words.
        if events.count < count or (not as_messages and events.count > count):
            load.blame("stream", f"{events.count} events of {count}")
    first = min(events.first_data or begin for events in all_events)
    last = max(events.last or begin for events in all_events)
    return sum(events.count for events in all_events) / max(last - first, 1e-9)


async def fan_out(load: Load) -> Figures:
    """One run with many readers."""
    sizes, connection = load.sizes, load.connect()
    run = await load.start(
        connection,
        await load.new_thread(connection),
        "tokens",
        mode="custom",
        count=sizes.reader_events,
        start_seconds=sizes.reader_start_seconds,
        pace_seconds=0.001,
    )
    path = f"{run.path}/stream?stream_mode=custom"
    readers = [Events("custom") for _ in range(sizes.readers)]

    async def read(events: Events) -> None:
        try:
            answer = await load.connect().stream("GET", path, events=events)
        except (Broken, OSError) as error:
            load.blame("join", error)
            return
        if not answer.is_good or events.errors:
            load.blame("join", f"{answer.status}, {events.errors} errors")

    before = load.server.processes.now()
    await asyncio.gather(*map(read, readers))
    spent = load.server.processes.since(before)
    await load.await_end(connection, [run])
    delivered = sum(events.count for events in readers)
    first = min((events.first_data for events in readers if events.first_data), default=0.0)
    last = max((events.last for events in readers if events.last), default=1.0)
    if delivered < sizes.readers * sizes.reader_events / 2:
        load.blame("join", f"{delivered} of {sizes.readers * sizes.reader_events} events")
    return {
        "delivered_per_s": delivered / (last - first),
        "share_delivered": delivered / (sizes.readers * sizes.reader_events),
        "cpu_us_per_event": 1e6 * spent.cpu_seconds / max(delivered, 1),
        "client_cores": spent.client_cores,
    }


async def replay(load: Load) -> Figures:
    """A run of the thread event protocol, read as it goes, then again by many at once."""
    sizes, processes = load.sizes, load.server.processes
    connection, thread_id = load.connect(), str(uuid4())
    path = f"/threads/{thread_id}/stream/events"
    values = {"count": sizes.replayed_events, "as_messages": True}
    params = {"assistant_id": "tokens", "input": values}
    command = {"id": 1, "method": "run.start", "params": params}
    begin = perf_counter()
    await load.need(connection, "POST", f"/threads/{thread_id}/commands", command)
    wanted = {"channels": ["messages", "lifecycle"]}
    live_seconds = await read_events(load, path, wanted, 1) - begin
    memory, before = processes.memory(), processes.now()
    largest = memory.pss_bytes

    async def watch() -> None:
        nonlocal largest
        while True:
            largest = max(largest, processes.memory().pss_bytes)
            await asyncio.sleep(MEMORY_SECONDS)

    watching = asyncio.create_task(watch())
    begin = perf_counter()
    end = await read_events(load, path, wanted, sizes.replay_readers)
    watching.cancel()
    spent = processes.since(before)
    replayed = sizes.replayed_events * sizes.replay_readers
    return {
        "live.events_per_s": sizes.replayed_events / live_seconds,
        "replayed_per_s": replayed / (end - begin),
        "cpu_us_per_event": 1e6 * spent.cpu_seconds / replayed,
        "grown_mb": (largest - memory.pss_bytes) / MEGABYTE,
        "client_cores": spent.client_cores,
    }


async def read_events(load: Load, path: str, wanted: Any, count: int) -> float:
    """Read a thread's messages so many times at once, from the start; when the last one was done.

    These streams have no end: whoever has seen every word leaves.
    """
    readers = [Events("messages") for _ in range(count)]
    connections = load.connect_all(count)
    readings = [
        asyncio.create_task(connection.stream("POST", path, wanted, events=events))
        for connection, events in zip(connections, readers, strict=True)
    ]
    give_up = perf_counter() + REPLAY_SECONDS
    while any(events.count < load.sizes.replayed_events for events in readers):
        if perf_counter() > give_up or any(reading.done() for reading in readings):
            load.blame("replay", f"{min(events.count for events in readers)} events")
            break
        await asyncio.sleep(LOOK_SECONDS)
    end = perf_counter()
    for reading in readings:
        reading.cancel()
    await asyncio.gather(*readings, return_exceptions=True)
    for connection in connections:
        connection.close()
    return end


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


async def probe_ok(load: Load, name: str) -> Figures:
    """Ask for the health again and again."""
    end = perf_counter() + load.sizes.probe_seconds
    request = ("GET", load.server.ok_path, None)
    return milliseconds(f"{name}.ok", await repeat(load, load.connect(), request, end))


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
            ("state_10", 10, 2 * sizes.reads, "GET", "state", None),
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


SCENARIOS = {
    "start": Scenario(start, wants_restart=True),
    "throughput": Scenario(throughput, has_floor=True),
    "wait": Scenario(wait, has_floor=True),
    "stateless": Scenario(stateless),
    "stream": Scenario(stream, has_floor=True),
    "tokens": Scenario(tokens, has_floor=True),
    "fan_out": Scenario(fan_out),
    "replay": Scenario(replay),
    "state": Scenario(state, has_floor=True),
    "blocking": Scenario(blocking),
    "idle": Scenario(idle, wants_restart=True),
    "slots": Scenario(slots, has_floor=True, wants_restart=True, has_slots=True),
}
"""In the order of a round: what needs another process comes last."""
