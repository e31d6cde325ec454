"""What lies on the disk once there is a key, and who can read it."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment, events_of, get, join, new_thread, start, streaming, until
from keyed import FIRST, SECOND, SECRET, files_with, serve, stop

from greenroom import encryption
from greenroom.cipher import Keys
from greenroom.config import load_config
from greenroom.encryption import WrongKey
from greenroom.errors import ConfigError


def leave_traces(client: httpx.Client) -> dict[str, Any]:
    """Put the secret everywhere that a payload goes; what was answered."""
    thread_id = new_thread(client)
    said = {"text": SECRET, "n": 2}
    path = f"/threads/{thread_id}/runs/stream"
    body = {
        "assistant_id": "echo",
        "input": said,
        "stream_resumable": True,
        "stream_mode": ["values", "debug"],
        "config": {"configurable": {"nested": {"note": SECRET}}},
    }
    with streaming(client, path, body) as events:
        assert SECRET in str(list(events))
    command = {"assistant_id": "echo", "input": said}
    sent = {"id": 1, "method": "run.start", "params": command}
    started = client.post(f"/threads/{thread_id}/commands", json=sent).json()
    join(client, {"thread_id": thread_id, "run_id": started["result"]["run_id"]})
    update = {"values": {"text": f"{SECRET} again", "trail": [SECRET]}}
    assert client.post(f"/threads/{thread_id}/state", json=update).status_code == 200
    assistant = client.post(
        "/assistants",
        json={"graph_id": "echo", "context": {"note": SECRET}},
    ).json()
    cron = {"assistant_id": "echo", "schedule": "0 0 1 1 *", "input": {"text": SECRET}}
    assert client.post("/runs/crons", json=cron).status_code == 200
    key = {"idempotency-key": str(uuid4())}
    once = {"assistant_id": "echo", "input": said}
    assert client.post("/runs", json=once, headers=key).status_code == 200
    stateless = client.post("/runs/wait", json={"assistant_id": "echo", "input": said}).json()
    assert SECRET in str(stateless)
    return {"thread_id": thread_id, "assistant_id": assistant["assistant_id"]}


def test_nothing_of_a_payload_can_be_read_from_the_disk(sealed: Deployment) -> None:
    """And without a key all of it can, which shows that the search finds what is there."""
    with serve(sealed, LANGGRAPH_AES_KEY=FIRST) as client:
        left = leave_traces(client)
        thread_id = left["thread_id"]
        assert files_with(sealed, SECRET) == []
        state = client.get(f"/threads/{thread_id}/state").json()
        assert state["values"]["text"] == f"{SECRET} again"
        assert len(client.post(f"/threads/{thread_id}/history", json={"limit": 50}).json()) >= 3
        assert SECRET in client.get(f"/threads/{thread_id}").text
        run = client.get(f"/threads/{thread_id}/runs").json()[0]
        assert run["kwargs"]["input"]["text"] == SECRET
        replay = f"/threads/{thread_id}/runs/{run['run_id']}/stream"
        with client.stream("GET", replay, headers={"last-event-id": "-1"}) as response:
            assert SECRET in str(list(events_of(response)))
        shown = client.get(f"/assistants/{left['assistant_id']}").json()
        assert shown["context"] == {"note": SECRET}
        assert SECRET in client.post("/runs/crons/search", json={}).text
        copied = client.post(f"/threads/{thread_id}/copy").json()["thread_id"]
        assert SECRET in client.get(f"/threads/{copied}/state").text
        hidden = client.post("/threads/search", json={"values": {"text": SECRET}})
        assert hidden.status_code == 400
        assert "encrypted" in hidden.json()["detail"]
        assert client.post("/threads/count", json={"values": {"n": 2}}).status_code == 400
    stop(sealed)
    with serve(sealed) as client:
        leave_traces(client)
        assert files_with(sealed, SECRET)


def test_rows_from_before_the_key_and_from_an_older_key_stay_readable(sealed: Deployment) -> None:
    """A thread goes on through both changes; what did not change meanwhile is still there."""
    with serve(sealed) as client:
        thread_id = new_thread(client)
        join(client, start(client, thread_id, "echo", input={"text": "plain", "n": 7}))
    stop(sealed)
    with serve(sealed, LANGGRAPH_AES_KEY=FIRST) as client:
        join(client, start(client, thread_id, "echo", input={"text": "first"}))
    stop(sealed)
    rotated = {"LANGGRAPH_AES_KEY": SECOND, "GREENROOM_AES_OLD_KEYS": FIRST}
    with serve(sealed, **rotated) as client:
        values = join(client, start(client, thread_id, "echo", input={"text": "second"}))
        assert values["trail"] == ["plain", "first", "second"]
        assert values["n"] == 7
        history = client.post(f"/threads/{thread_id}/history", json={"limit": 50}).json()
        assert {"plain", "first", "second"} <= {state["values"].get("text") for state in history}
        assert [run["kwargs"]["input"]["text"] for run in runs_of(client, thread_id)] == [
            *("second", "first", "plain")
        ]
    stop(sealed)
    # Back without a key: what was never encrypted is readable, the rest says why it is not.
    with serve(sealed, LANGGRAPH_AES_KEY=SECOND) as client:
        answer = client.get(f"/threads/{thread_id}/runs")
        assert answer.status_code == 500
        assert "GREENROOM_AES_OLD_KEYS" in answer.json()["detail"]
        assert client.get(f"/threads/{thread_id}/state").json()["values"]["text"] == "second"
    stop(sealed)
    with serve(sealed) as client:
        answer = client.get(f"/threads/{thread_id}/state")
        assert answer.status_code == 500
        assert "LANGGRAPH_AES_KEY" in answer.json()["detail"]
        other = new_thread(client)
        assert join(client, start(client, other, "echo", input={"text": "x"}))["trail"] == ["x"]


def runs_of(client: httpx.Client, thread_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/threads/{thread_id}/runs").json()
    return found


@pytest.mark.parametrize("names", ["", "note"])
def test_a_run_whose_input_cannot_be_read_ends_and_blocks_nobody(
    sealed: Deployment, names: str
) -> None:
    """A worker with another key gives it up after its attempts; the next run is served.

    With names the metadata fail first, which the driver decodes.
    """
    url = sealed.start_web(LANGGRAPH_AES_KEY=FIRST, LANGGRAPH_AES_JSON_KEYS=names)
    with sealed.client(url) as client:
        thread_id, metadata = new_thread(client), {"note": SECRET}
        run = start(client, thread_id, "echo", input={"text": "x"}, metadata=metadata)
        sealed.start_worker(LANGGRAPH_AES_KEY=SECOND)
        until(lambda: sealed.count_log("another key"))
        assert get(client, run)["status"] in {"pending", "running", "error"}
        assert get(client, run)["metadata"]["note"] == SECRET
    other = sealed.start_web(LANGGRAPH_AES_KEY=SECOND)
    with sealed.client(other) as client:
        fine = start(client, new_thread(client), "echo", input={"text": "y"})
        assert join(client, fine)["trail"] == ["y"]


@pytest.mark.parametrize("size", [16, 24, 32])
def test_what_is_sealed_opens_with_its_key_alone(size: int) -> None:
    """Two payloads never look alike, and none can be changed by a bit."""
    keys, other = Keys(b"a" * size), Keys(b"b" * size)
    sealed, again = keys.seal(b"payload"), keys.seal(b"payload")
    assert sealed != again
    assert b"payload" not in sealed
    assert keys.unseal(sealed) == b"payload"
    with pytest.raises(WrongKey):
        other.unseal(sealed)
    for position in range(len(encryption.MARK), len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(WrongKey):
            keys.unseal(bytes(changed))
    assert Keys(b"b" * size, [b"a" * size]).unseal(sealed) == b"payload"


@pytest.mark.parametrize("name", ["LANGGRAPH_AES_KEY", "GREENROOM_AES_OLD_KEYS"])
def test_a_key_of_the_wrong_length_is_refused_without_being_shown(name: str) -> None:
    """At the start, by its name."""
    engines = {"DATABASE_URI": "postgresql://nowhere/x", "REDIS_URI": "redis://nowhere"}
    baked = {"LANGSERVE_GRAPHS": '{"echo": "./graphs.py:echo"}'}
    with pytest.raises(ConfigError) as raised:
        load_config(Path("/nowhere"), {**engines, **baked, name: "too short"})
    assert name in str(raised.value)
    assert "too short" not in str(raised.value)
    config = load_config(Path("/nowhere"), {**engines, **baked, name: FIRST})
    assert FIRST not in repr(config)
