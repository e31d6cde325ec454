"""Clients that read slowly, do not read at all, or all leave at once."""

import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import redis
from deployment import Deployment, events_of, get, new_thread, start, until
from ledger import Ledger, Usage, usage_of
from report import Scenario

from greenroom import wire
from greenroom.streaming.frames import TOO_SLOW

Open = Callable[[int, str], Scenario]

RESET = struct.pack("ii", 1, 0)
MEGABYTE = 2**20
EVENT_BYTES = 64 * 1024


def ask(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> socket.socket:
    """Send a request on a connection that has room for little, and read the head of the answer."""
    target = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    connection.settimeout(60)
    connection.connect((target.hostname, target.port))
    content = wire.dumps(body) if body is not None else b""
    head = f"{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, answer
        answer += byte
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return connection


def read_rest(connection: socket.socket) -> bytes:
    """Everything up to the end of the answer."""
    read = bytearray()
    while not read.endswith(b"\r\n0\r\n\r\n") and (chunk := connection.recv(MEGABYTE)):
        read += chunk
    return bytes(read)


def channels(deployment: Deployment) -> int:
    """How many threads the web processes listen to."""
    with redis.Redis.from_url(deployment.redis.uri) as client:
        names = client.pubsub_channels("*:events:*")
    return len(names)


def usage_at_rest(deployment: Deployment) -> Usage:
    """The same once nothing is being closed any more."""
    found = usage_of_webs(deployment)

    def is_at_rest() -> bool:
        nonlocal found
        before, found = found, usage_of_webs(deployment)
        return found.descriptors == before.descriptors

    until(is_at_rest, 10, every=0.3)
    return found


def usage_of_webs(deployment: Deployment) -> Usage:
    """What the web processes hold, their children included."""
    return usage_of(deployment, [process.pid for process in deployment.webs.values()])


def test_a_client_that_does_not_read_is_dropped_alone(
    deployment: Deployment, scenario: Open, ledger: Ledger, tmp_path: Path, is_full: bool
) -> None:
    """The stalled are cut off, the slow one is told; who reads the same run well misses nothing."""
    one = scenario(11, "slow and stalled readers")
    count = 1600 if is_full else 800
    impatient = deployment.start_web(GREENROOM_HEARTBEAT_SECONDS="0.5")
    patient = deployment.start_web()
    deployment.start_worker()
    gate = tmp_path / "gate"
    with deployment.client(patient) as http:
        body = {"kind": "events", "size": EVENT_BYTES, "count": count, "path": str(gate)}
        run = ledger.accept(
            start(http, new_thread(http), "heavy", input=body, stream_mode="custom")
        )
        before = usage_of_webs(deployment)
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
        stalled = [ask(impatient, "GET", path) for _ in range(3)]
        slow = ask(patient, "GET", path)
        with http.stream("GET", path) as response:
            gate.touch()
            numbers = [data["number"] for name, data, _ in events_of(response) if name == "custom"]
        assert numbers == list(range(count))
        with one.recovery():
            until(lambda: channels(deployment) == 1)
        told = read_rest(slow)
        assert told.endswith(TOO_SLOW + b"\r\n"), "broken off, which is no end"
        assert told.count(b"event: custom") < count
        until(lambda: channels(deployment) == 0, 10)
        until(lambda: usage_of_webs(deployment).descriptors <= before.descriptors + 10, 10)
        assert deployment.count_log("client dropped: it does not read") == len(stalled)
        assert usage_of_webs(deployment).megabytes < before.megabytes + 150
        assert get(http, run)["status"] == "success"
    for connection in [*stalled, slow]:
        connection.close()
    assert deployment.count_log("[error") == 0
    one.runs, one.kills = 1, len(stalled) + 1
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def test_many_clients_that_leave_at_once_leave_nothing_behind(
    deployment: Deployment, scenario: Open, ledger: Ledger, tmp_path: Path, is_full: bool
) -> None:
    """All is let go within seconds, and a second wave needs no more than the first.

    Runs whose clients wanted it are cancelled, others go on.
    """
    clients = 2000 if is_full else 300
    one = scenario(11, f"{clients} clients drop at once")
    url = deployment.start_web()
    deployment.start_worker(N_JOBS_PER_WORKER="2")
    gate = tmp_path / "gate"
    with deployment.client() as http:
        run = ledger.accept(
            start(http, new_thread(http), "heavy", input={"kind": "none", "path": str(gate)})
        )
        before = usage_of_webs(deployment)
        after_waves = []
        for _ in range(2):
            bound = {
                "assistant_id": "steps",
                "input": {"n": 20, "seconds": 2},
                "on_disconnect": "cancel",
            }
            leaving = [
                ask(url, "POST", f"/threads/{new_thread(http)}/runs/stream", bound)
                for _ in range(clients // 10)
            ]
            place = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
            for number in range(clients - len(leaving)):
                thread = f"/threads/{uuid4()}/stream"
                paths = (f"{place}/stream", f"{place}/join", thread)
                leaving.append(ask(url, "GET", paths[number % 3]))
            assert usage_of_webs(deployment).descriptors > clients
            for connection in leaving[::2]:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            with one.recovery():
                for connection in leaving:
                    connection.close()
                until(lambda: channels(deployment) == 0, 10)
                until(lambda: usage_of_webs(deployment).descriptors < before.descriptors + 60, 10)
            assert http.get("/ok").json()["ok"] is True
            after_waves.append(usage_at_rest(deployment))
            one.kills += clients
        first, second = after_waves
        assert second.descriptors - second.pooled <= first.descriptors - first.pooled + 5
        # Whoever asks at one moment has a connection each; forgotten, they were one for each client
        # of a kind: a tenth of the clients at least.
        assert second.pooled <= first.pooled + clients // 50
        assert second.threads <= first.threads + 2
        assert second.database_connections <= first.database_connections + 2
        assert second.megabytes < first.megabytes + 30
        steps = "SELECT count(*) FROM run WHERE graph_id = 'steps'"
        one.runs = 1 + deployment.value(steps)
        until(lambda: deployment.value(f"{steps} AND status = 'interrupted'") == one.runs - 1)
        gate.touch()
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())
    assert deployment.count_log("[error") == 0
