"""The thread event protocol on a WebSocket."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment, until
from numbered import is_end, lifecycle, read_runs, start_run
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

HELLO = {"messages": [{"role": "user", "content": "hello there"}]}


@contextmanager
def socket_of(url: str, thread_id: str, **more: Any) -> Iterator[ClientConnection]:
    address = f"{url.replace('http', 'ws', 1)}/threads/{thread_id}/stream/events"
    with connect(address, max_size=None, **more) as socket:
        yield socket


def ask(socket: ClientConnection, method: str, **params: Any) -> dict[str, Any]:
    """Send a command; its answer, after the events that come before it."""
    socket.send(json.dumps({"id": 7, "method": method, "params": params}))
    while (answer := json.loads(socket.recv(timeout=30)))["type"] == "event":
        pass
    assert answer["id"] == 7
    return dict(answer)


def read(socket: ClientConnection) -> list[dict[str, Any]]:
    """Events to the end of a run."""
    events = [json.loads(socket.recv(timeout=30))]
    while not is_end(events[-1]):
        events.append(json.loads(socket.recv(timeout=30)))
    return events


def test_commands_and_events_share_a_socket(server: Deployment, http: httpx.Client) -> None:
    """The same events as on a stream, each once for all subscriptions, replays by subscription."""
    thread_id = str(uuid4())
    with socket_of(server.url, thread_id) as socket:
        channels = ["values", "messages", "lifecycle"]
        first = ask(socket, "subscription.subscribe", channels=channels)
        assert first["result"]["replayed_events"] == 0
        ask(socket, "subscription.subscribe", channels=["lifecycle"])
        started = ask(socket, "run.start", assistant_id="chat", input=HELLO)
        assert started["meta"] == {"applied_through_seq": 0}
        events = read(socket)
        assert events == read_runs(http, thread_id, channels=channels)
        late = ask(socket, "subscription.subscribe", channels=["lifecycle"])
        assert late["result"]["replayed_events"] == 2
        assert late["meta"]["applied_through_seq"] == events[-1]["seq"]
        for subscription in (first, late):
            subscription_id = subscription["result"]["subscription_id"]
            answer = ask(socket, "subscription.unsubscribe", subscription_id=subscription_id)
            assert answer["result"] == {}
        answer = ask(socket, "subscription.unsubscribe", subscription_id=subscription_id)
        assert answer["error"] == "no_such_subscription"
        ask(socket, "run.start", assistant_id="chat", input=HELLO)
        assert lifecycle(read(socket)) == ["running", "completed"]


def test_a_late_subscription_replays_what_is_kept(server: Deployment, http: httpx.Client) -> None:
    """Before its answer, which counts it."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "chat", input=HELLO)
    events = read_runs(http, thread_id, channels=["messages", "lifecycle"])
    with socket_of(server.url, thread_id) as socket:
        params = {"channels": ["messages", "lifecycle"]}
        socket.send(json.dumps({"id": 1, "method": "subscription.subscribe", "params": params}))
        assert read(socket) == events
        answer = json.loads(socket.recv(timeout=30))
        assert answer["result"]["replayed_events"] == len(events)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("not json", "invalid_argument"),
        ("[]", "invalid_argument"),
        ('{"id": 1}', "invalid_argument"),
        ('{"id": 1, "method": "nope"}', "unknown_command"),
        ('{"id": 1, "method": "run.start"}', "invalid_argument"),
        ('{"id": 1, "method": "run.start", "params": []}', "invalid_argument"),
        ('{"id": 1, "method": "subscription.subscribe"}', "invalid_argument"),
        (
            '{"id": 1, "method": "subscription.subscribe", "params": {"channels": ["debug"]}}',
            "invalid_argument",
        ),
        ('{"id": 1, "method": "subscription.reconnect"}', "invalid_argument"),
        ('{"id": 1, "method": "agent.getTree"}', "no_such_run"),
    ],
)
def test_what_is_refused_leaves_the_socket_open(
    server: Deployment, message: str, error: str
) -> None:
    """With a code and a sentence."""
    with socket_of(server.url, str(uuid4())) as socket:
        for _ in range(2):
            socket.send(message)
            answer = json.loads(socket.recv(timeout=30))
            assert answer["type"] == "error"
            assert answer["error"] == error
            assert answer["message"]


def test_a_binary_frame_ends_the_socket(server: Deployment) -> None:
    """It is nothing that we understand."""
    with socket_of(server.url, str(uuid4())) as socket:
        socket.send(b"\x00")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003


def test_a_large_event_passes_whole(server: Deployment) -> None:
    """Larger than the buffers on its way."""
    with socket_of(server.url, str(uuid4())) as socket:
        ask(socket, "subscription.subscribe", channels=["values", "lifecycle"])
        size = 3_000_000
        ask(socket, "run.start", assistant_id="heavy", input={"kind": "state", "size": size})
        last = read(socket)[-2]
        assert last["params"]["data"]["made"] == "x" * size


def test_pings_are_answered(server: Deployment) -> None:
    """While nothing else happens."""
    with socket_of(server.url, str(uuid4())) as socket:
        assert socket.ping().wait(timeout=30)


def test_a_path_that_names_no_thread_is_refused(server: Deployment) -> None:
    """Before the handshake."""
    with pytest.raises(InvalidStatus), socket_of(server.url, "not-a-thread"):
        pass


def test_another_origin_needs_leave(deployment: Deployment) -> None:
    """Browsers do not ask first, so the server looks."""
    deployment.settings["CORS_ALLOW_ORIGINS"] = "https://good.example"
    url = deployment.start_web()
    thread_id = str(uuid4())
    with socket_of(url, thread_id, origin="https://good.example") as socket:
        assert ask(socket, "agent.getTree")["error"] == "no_such_run"
    with socket_of(url, thread_id, origin=url) as socket:
        assert ask(socket, "agent.getTree")["error"] == "no_such_run"
    with pytest.raises(InvalidStatus), socket_of(url, thread_id, origin="https://bad.example"):
        pass


def test_sockets_end_with_their_process(deployment: Deployment) -> None:
    """Told so, that their clients go elsewhere; and nothing of them is left."""
    url = deployment.start_web()
    with socket_of(url, str(uuid4())) as socket:
        ask(socket, "subscription.subscribe", channels=["values"])
        deployment.webs[url].terminate()
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    until(lambda: deployment.webs[url].poll() is not None)
