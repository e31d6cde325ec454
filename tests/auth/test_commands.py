"""Who may do what over the protocol of generation 2."""

import socket
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from deployment import Deployment, join, new_thread, start


def command(client: httpx.Client, thread_id: str, method: str, **params: Any) -> dict[str, Any]:
    """Send one command; its answer."""
    body = {"id": 1, "method": method, "params": params}
    answer = client.post(f"/threads/{thread_id}/commands", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_command_runs_on_ones_own_threads_alone(ann: httpx.Client, bob: httpx.Client) -> None:
    """A foreign thread is as if it were not there; a new one belongs to who makes it."""
    hers = new_thread(ann)
    given = {"assistant_id": "echo", "input": {"text": "hi"}}
    refused = command(bob, hers, "run.start", **given)
    assert (refused["type"], refused["error"]) == ("error", "unknown_error")
    assert "404" in refused["message"]
    assert ann.get(f"/threads/{hers}/runs").json() == []
    tree = command(bob, hers, "agent.getTree")
    assert tree == command(bob, str(uuid4()), "agent.getTree")
    answer = {"interrupt_id": "x", "response": 1}
    assert command(bob, hers, "input.respond", **answer)["error"] == "no_such_run"

    made = str(uuid4())
    run_id = command(bob, made, "run.start", **given)["result"]["run_id"]
    values = join(bob, {"thread_id": made, "run_id": run_id})
    assert values["trail"][0]["user"] == ["bob", "bob", "secret of bob"]
    assert bob.get(f"/threads/{made}").json()["metadata"]["owner"] == "bob"
    assert ann.get(f"/threads/{made}").status_code == 404


def test_a_reader_starts_nothing(ann: httpx.Client, reader: httpx.Client) -> None:
    """Each command that makes a run asks as any other run does."""
    hers = new_thread(ann)
    refused = command(reader, hers, "run.start", assistant_id="echo", input={})
    assert (refused["type"], refused["error"]) == ("error", "unknown_error")
    assert refused["message"] == "403: read only"
    assert ann.get(f"/threads/{hers}/runs").json() == []


def test_events_are_for_those_who_see_the_thread(ann: httpx.Client, bob: httpx.Client) -> None:
    """A stranger's stream ends at once, whether there is a thread or not."""
    hers = new_thread(ann)
    join(ann, start(ann, hers, "echo", input={"text": "private"}))
    for thread_id in (hers, str(uuid4())):
        answer = bob.post(f"/threads/{thread_id}/stream/events", json={"channels": ["values"]})
        assert (answer.status_code, answer.text) == (200, "")


def test_an_upgrade_asks_who_calls(guarded: Deployment, ann: httpx.Client) -> None:
    """Nobody, somebody else, and the owner of the thread."""
    hers = new_thread(ann)
    place = urlsplit(guarded.url)
    for token, status in ((None, "401"), ("mallory", "401"), ("bob", "404"), ("ann", "101")):
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        request = (
            f"GET /threads/{hers}/stream/events HTTP/1.1\r\nHost: x\r\n{authorization}"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        with socket.create_connection((place.hostname, place.port), timeout=30) as line:
            line.sendall(request.encode())
            assert line.recv(4096).split(b" ")[1].decode() == status
