"""Runs whose events are read: how soon, how many a second, by one client and by many."""

import asyncio
from time import perf_counter
from typing import Any
from uuid import uuid4

from benchmarks.client import Broken, Connection, Events
from benchmarks.load import TEXT, Load
from benchmarks.loop import Figures, closed_loop, milliseconds
from benchmarks.processes import MEGABYTE
from benchmarks.runs import requests_of

STREAM_CLIENTS = (1, 20)
LOOK_SECONDS = 0.01
MEMORY_SECONDS = 0.1
REPLAY_SECONDS = 120.0
"""Longer readings are errors."""


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
