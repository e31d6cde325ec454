"""What is written to streams while they wait: events and heartbeats, past the reader's own turn."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
import redis
from deployment import Deployment, events_of, get, new_thread, start, until

from greenroom.streaming.frames import HEARTBEAT, Batch, Kind, pack

BEAT = HEARTBEAT.decode().strip()
READERS = 4
COUNT = 200
CROWD = 24


@pytest.fixture
def beating(deployment: Deployment) -> Iterator[httpx.Client]:
    """A client of a server whose streams are never silent for long."""
    deployment.start_web(GREENROOM_HEARTBEAT_SECONDS="0.3")
    deployment.start_worker()
    with deployment.client() as client:
        yield client


def test_idle_streams_of_every_kind_are_sent_heartbeats(
    deployment: Deployment, beating: httpx.Client
) -> None:
    """Again and again, and then their events as if nothing had been."""
    thread_id = new_thread(beating)
    run = start(beating, thread_id, "steps", input={"n": 2, "seconds": 3}, stream_mode="values")
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    filtered = {"stream_mode": "custom"}
    with (
        ThreadPoolExecutor() as pool,
        deployment.client() as own,
        own.stream("GET", f"{path}/stream") as of_run,
        own.stream("GET", f"{path}/stream", params=filtered) as of_mode,
        own.stream("GET", f"/threads/{thread_id}/stream") as of_thread,
        own.stream(
            "POST", f"/threads/{thread_id}/stream/events", json={"channels": ["lifecycle"]}
        ) as of_events,
    ):
        streams = [response.iter_lines() for response in (of_run, of_mode, of_thread, of_events)]
        for lines in list(pool.map(heartbeats, streams)):
            assert lines.count(BEAT) == 3
        rest = list(pool.map(list, streams[:2]))
    assert "event: values" in rest[0]
    assert "event: values" not in rest[1]


def heartbeats(lines: Iterator[str]) -> list[str]:
    """What a stream says up to its third heartbeat."""
    read = []
    while read.count(BEAT) < 3:
        read.append(next(lines))
    return read


def ask(url: str, path: str) -> socket.socket:
    """Ask for a stream on a connection that has room for little."""
    target = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((target.hostname, target.port))
    # Without chunks, so that what comes is what was sent, byte for byte.
    connection.sendall(f"GET {path} HTTP/1.0\r\nhost: test\r\n\r\n".encode())
    return connection


def body_of(connection: socket.socket) -> bytes:
    """Read to the end."""
    read = bytearray()
    while piece := connection.recv(1024 * 1024):
        read += piece
    return bytes(read).partition(b"\r\n\r\n")[2].replace(HEARTBEAT, b"")


def test_what_a_full_connection_does_not_take_comes_later_and_whole(
    server: Deployment, http: httpx.Client, tmp_path: Path
) -> None:
    """Some read nothing until the run has ended; all get the same bytes, each event once."""
    gate = tmp_path / "gate"
    body: dict[str, Any] = {"kind": "events", "size": 50_000, "count": COUNT, "path": str(gate)}
    run = start(http, new_thread(http), "heavy", input=body, stream_mode="custom")
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
    stalled = [ask(server.url, path) for _ in range(READERS)]
    heads = [connection.recv(12) for connection in stalled]
    assert heads == [b"HTTP/1.0 200"] * READERS
    with http.stream("GET", path) as response:
        gate.touch()
        numbers = [data["number"] for name, data, _ in events_of(response) if name == "custom"]
    assert numbers == list(range(COUNT))
    with server.client() as own:
        until(lambda: get(own, run)["status"] == "success")
    with ThreadPoolExecutor() as pool:
        bodies = list(pool.map(body_of, stalled))
    for connection in stalled:
        connection.close()
    assert bodies[0].count(b"event: custom") == COUNT
    assert bodies[0].endswith(b"\r\n\r\n")
    assert all(one == bodies[0] for one in bodies)


def test_a_crowd_gets_every_event_once_and_in_order(
    server: Deployment, http: httpx.Client, tmp_path: Path
) -> None:
    """What comes together is written together, to readers of either kind."""
    gate = tmp_path / "gate"
    body: dict[str, Any] = {"kind": "events", "size": 100, "count": 400, "path": str(gate)}
    run = start(http, new_thread(http), "heavy", input=body, stream_mode=["custom", "values"])
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"

    def read(response: httpx.Response) -> list[int]:
        return [data["number"] for name, data, _ in events_of(response) if name == "custom"]

    with ExitStack() as stack, ThreadPoolExecutor(CROWD) as pool:
        responses = []
        for number in range(CROWD):
            own = stack.enter_context(server.client())
            params = {"stream_mode": "custom"} if number % 2 else {}
            responses.append(stack.enter_context(own.stream("GET", path, params=params)))
        gate.touch()
        seen = list(pool.map(read, responses))
    assert seen == [list(range(400))] * CROWD


def test_what_cannot_be_read_ends_one_stream_and_no_other(
    server: Deployment, http: httpx.Client
) -> None:
    """Whatever lands in Redis: who writes for all streams goes on."""
    other = start(http, new_thread(http), "steps", input={"n": 20, "seconds": 0.1})
    run = start(http, new_thread(http), "steps", input={"n": 20, "seconds": 0.1})
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
    broken = Batch(Kind.EVENTS, UUID(run["run_id"]), 2**60, 0, 0, 1, b"event: \xff\r\n\r\n")
    with (
        server.client() as own,
        own.stream("GET", f"/threads/{other['thread_id']}/runs/{other['run_id']}/stream") as good,
        own.stream("GET", path, params={"stream_mode": "values"}) as bad,
        redis.Redis.from_url(server.redis.uri) as client,
    ):
        goods, bads = events_of(good), events_of(bad)
        assert next(goods)
        assert next(bads)
        (channel,) = client.pubsub_channels(f"*:events:*{run['thread_id']}*")
        client.publish(channel, pack(broken))
        with pytest.raises(httpx.RemoteProtocolError):
            list(bads)
        assert len(list(goods)) > 1
