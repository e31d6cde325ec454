"""Values in metadata that are encrypted one by one, while Postgres searches the others."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment, join, new_thread, start
from keyed import FIRST, SECOND, SECRET, files_with, serve, stop

from greenroom.config import load_config
from greenroom.errors import ConfigError

HIDDEN: dict[str, Any] = {"note": SECRET, "deep": {"ssn": [SECRET, 1]}, "open": "sesame"}
NAMES = {"LANGGRAPH_AES_JSON_KEYS": "note, ssn"}
CRON = {"assistant_id": "echo", "schedule": "0 0 1 1 *", "metadata": HIDDEN}


def shown(row: Any) -> bool:
    """Whether what was put as HIDDEN comes back, among what the server adds."""
    return bool(HIDDEN.items() <= row["metadata"].items())


def make(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def leave(client: httpx.Client) -> str:
    """Put HIDDEN wherever metadata go; the thread's id."""
    assistant = make(client, "/assistants", graph_id="echo", metadata=HIDDEN)
    changed = client.patch(f"/assistants/{assistant['assistant_id']}", json={"metadata": {"n": 1}})
    assert shown(assistant) and shown(changed.json())
    versions = make(client, f"/assistants/{assistant['assistant_id']}/versions")
    assert all(map(shown, versions)) and len(versions) == 2
    thread = make(client, "/threads", metadata=HIDDEN)
    thread_id: str = thread["thread_id"]
    patched = client.patch(f"/threads/{thread_id}", json={"metadata": {"note": [SECRET]}})
    assert patched.json()["metadata"]["note"] == [SECRET]
    assert shown(client.patch(f"/threads/{thread_id}", json={"metadata": HIDDEN}).json())
    config = {"configurable": {"note": SECRET}, "metadata": {"ssn": SECRET}}
    run = start(client, thread_id, "echo", input={"text": "x"}, metadata=HIDDEN, config=config)
    assert shown(run)
    join(client, run)
    waited = make(client, "/runs/wait", assistant_id="echo", input={"text": "x"}, metadata=HIDDEN)
    assert waited["trail"] == ["x"]
    assert shown(make(client, "/runs/crons", **CRON))
    update = {"values": {"text": "more"}}
    assert client.post(f"/threads/{thread_id}/state", json=update).status_code == 200
    return thread_id


def test_chosen_values_cannot_be_read_from_the_disk(sealed: Deployment) -> None:
    """They come back on every way; the values beside them are found, they are not."""
    with serve(sealed, LANGGRAPH_AES_KEY=FIRST, **NAMES) as client:
        thread_id = leave(client)
        assert files_with(sealed, SECRET) == []
        assert shown(client.get(f"/threads/{thread_id}").json())
        copied = client.post(f"/threads/{thread_id}/copy").json()["thread_id"]
        for each in (thread_id, copied):
            *_, first = make(client, f"/threads/{each}/history", limit=50)
            assert first["metadata"]["note"] == first["metadata"]["ssn"] == SECRET
        (run,) = client.get(f"/threads/{thread_id}/runs").json()
        assert shown(run)
        beside = {"metadata": {"open": "sesame"}}
        for kind in ("assistants", "threads", "runs/crons"):
            assert any(map(shown, make(client, f"/{kind}/search", **beside)))
            for hidden in ({"note": SECRET}, {"deep": {"ssn": 1}}):
                for question in ("search", "count"):
                    refused = client.post(f"/{kind}/{question}", json={"metadata": hidden})
                    assert refused.status_code == 422
                    assert "LANGGRAPH_AES_JSON_KEYS" in refused.json()["detail"]
        history = client.post(f"/threads/{thread_id}/history", json={"metadata": {"note": SECRET}})
        assert history.status_code == 422
        assert files_with(sealed, SECRET) == []
    stop(sealed)
    with serve(sealed, LANGGRAPH_AES_KEY=FIRST) as client:
        # The names are gone, and what was encrypted under them is still read.
        assert shown(client.get(f"/threads/{thread_id}").json())
        leave(client)
        assert files_with(sealed, SECRET)


def test_values_of_all_times_are_read(sealed: Deployment) -> None:
    """From before the names, of an older key, of this one; a key that is missing is told of."""
    with serve(sealed) as client:
        plain = leave(client)
        marked = {"metadata": {"any": ["greenroom:sealed:AAAA"]}}
        refused = client.post("/threads", json=marked)
        assert refused.status_code == 422
        assert "greenroom:sealed:" in refused.json()["detail"]
    stop(sealed)
    with serve(sealed, LANGGRAPH_AES_KEY=FIRST, **NAMES) as client:
        first = leave(client)
        assert client.post("/threads", json=marked).status_code == 422
    stop(sealed)
    rotated = {"LANGGRAPH_AES_KEY": SECOND, "GREENROOM_AES_OLD_KEYS": FIRST}
    with serve(sealed, **rotated, **NAMES) as client:
        for thread_id in (plain, first):
            assert shown(client.get(f"/threads/{thread_id}").json())
            join(client, start(client, thread_id, "echo", input={"text": "y"}))
            *_, oldest = make(client, f"/threads/{thread_id}/history", limit=50)
            assert oldest["metadata"]["note"] == SECRET
    stop(sealed)
    with serve(sealed, LANGGRAPH_AES_KEY=SECOND, **NAMES) as client:
        refused = client.get(f"/threads/{first}")
        assert refused.status_code == 500
        assert "GREENROOM_AES_OLD_KEYS" in refused.json()["detail"]
        assert shown(client.get(f"/threads/{plain}").json())
    stop(sealed)
    with serve(sealed) as client:
        refused = client.get(f"/threads/{first}")
        assert refused.status_code == 500
        assert "LANGGRAPH_AES_KEY" in refused.json()["detail"]
        other = new_thread(client)
        assert join(client, start(client, other, "echo", input={"text": "z"}))["trail"] == ["z"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"LANGGRAPH_AES_JSON_KEYS": "note"}, "needs LANGGRAPH_AES_KEY"),
        ({"LANGGRAPH_AES_JSON_KEYS": "note,graph_id", "LANGGRAPH_AES_KEY": FIRST}, "graph_id"),
    ],
)
def test_names_that_cannot_be_encrypted_are_refused(settings: dict[str, str], told: str) -> None:
    """At the start: nothing would be encrypted, or nothing would be found."""
    needed = {
        "DATABASE_URI": "postgresql://nowhere/x",
        "REDIS_URI": "redis://nowhere",
        "LANGSERVE_GRAPHS": '{"echo": "./graphs.py:echo"}',
    }
    with pytest.raises(ConfigError, match=told):
        load_config(Path("/nowhere"), {**needed, **settings})
