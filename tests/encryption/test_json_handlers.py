"""Members of metadata that the owner's JSON handlers choose to encrypt."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment, get, join, new_thread, start, until
from keyed import SECRET, deploy, files_with, serve, stop

PROJECT = Path(__file__).parent / "guarded" / "langgraph.json"
HIDDEN: dict[str, Any] = {
    "note": SECRET,
    "deep": {"card": [SECRET, 1]},
    "pet": SECRET,
    "open": "sesame",
}
JSON = {"HANDLERS": "json"}
MODELS = {"assistant", "thread", "run", "cron", "checkpoint"}


@pytest.fixture
def guarded() -> Iterator[Deployment]:
    """Engines of one's own; the processes are started by the test."""
    yield from deploy(PROJECT)


def shown(row: Any) -> bool:
    """Whether what was put as HIDDEN comes back, among what the server adds."""
    return bool(HIDDEN.items() <= row["metadata"].items())


def make(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def cron(client: httpx.Client, schedule: str, metadata: dict[str, Any]) -> Any:
    body = {"assistant_id": "nothing", "schedule": schedule, "metadata": metadata}
    return make(client, "/runs/crons", **body, input={"text": "x"}, on_run_completed="keep")


def leave(client: httpx.Client) -> str:
    """Put HIDDEN wherever metadata go; the thread's id."""
    assistant = make(client, "/assistants", graph_id="nothing", metadata=HIDDEN)
    changed = client.patch(f"/assistants/{assistant['assistant_id']}", json={"metadata": {"n": 1}})
    assert shown(assistant) and shown(changed.json())
    thread_id: str = make(client, "/threads", metadata=HIDDEN)["thread_id"]
    assert shown(client.patch(f"/threads/{thread_id}", json={"metadata": HIDDEN}).json())
    config = {"configurable": {"note": SECRET}, "metadata": {"pet": SECRET}}
    run = start(client, thread_id, "nothing", input={"text": "x"}, metadata=HIDDEN, config=config)
    assert shown(run)
    join(client, run)
    assert shown(cron(client, "0 0 1 1 *", HIDDEN))
    update = {"values": {"text": "more"}}
    assert client.post(f"/threads/{thread_id}/state", json=update).status_code == 200
    own = {"assistant_id": assistant["assistant_id"], "input": {"text": "y"}}
    assert make(client, "/runs/wait", **own, metadata=HIDDEN) == {"text": "y"}
    return thread_id


def leave_cron(deployment: Deployment, say: str) -> str:
    """A cron whose metadata no handler has seen, due every second, and nobody to fire it."""
    with deployment.client(deployment.start_web()) as client:
        cron_id: str = cron(client, "* * * * * *", {"say": say})["cron_id"]
    stop(deployment)
    return cron_id


def test_what_the_handler_encrypts_cannot_be_read_from_the_disk(guarded: Deployment) -> None:
    """By its name, by what it holds, by whose it is; the rest is found, before and after."""
    with serve(guarded, **JSON) as client:
        thread_id = leave(client)
        assert files_with(guarded, SECRET) == []
        assert shown(client.get(f"/threads/{thread_id}").json())
        copied = client.post(f"/threads/{thread_id}/copy").json()["thread_id"]
        for each in (thread_id, copied):
            *_, first = make(client, f"/threads/{each}/history", limit=50)
            assert first["metadata"]["note"] == first["metadata"]["pet"] == SECRET
        beside = {"metadata": {"open": "sesame"}}
        assert make(client, f"/threads/{thread_id}/history", limit=50, **beside)
        for kind in ("assistants", "threads", "runs/crons"):
            assert any(map(shown, make(client, f"/{kind}/search", **beside)))
        assert files_with(guarded, SECRET) == []
    stop(guarded)
    # The handlers have gone, and the key that guards the key of data is another.
    with serve(guarded, OWNERS_KEY="new") as client:
        for kind in ("assistants", "threads", "runs/crons"):
            assert any(map(shown, make(client, f"/{kind}/search", **beside)))
        leave(client)
        assert files_with(guarded, SECRET)


def test_what_is_encrypted_cannot_be_searched(guarded: Deployment) -> None:
    """And the answer says why, whatever is searched."""
    with serve(guarded, **JSON, LANGGRAPH_AES_JSON_KEYS="open") as client:
        thread_id = leave(client)
        paths = [f"/{kind}/search" for kind in ("assistants", "threads", "runs/crons")]
        for path in (*paths, f"/threads/{thread_id}/history"):
            for wanted in ({"note": SECRET}, {"deep": {"card": [1]}}, {"pet": SECRET}):
                refused = client.post(path, json={"metadata": wanted})
                assert refused.status_code == 422
                assert "(encryption.path)" in refused.json()["detail"]
            refused = client.post(path, json={"metadata": {"deep": {"open": "sesame"}}})
            assert "(LANGGRAPH_AES_JSON_KEYS)" in refused.json()["detail"]
        assert files_with(guarded, "sesame") == []


def test_the_runs_of_a_cron_hide_what_it_hides(guarded: Deployment) -> None:
    """It fires in a worker, which asks the handlers itself."""
    with serve(guarded, **JSON) as client:
        made = cron(client, "* * * * * *", HIDDEN)
        wanted = {"metadata": {"open": "sesame"}, "status": "idle"}
        thread = until(lambda: make(client, "/threads/search", **wanted))[0]
        assert shown(thread)
        assert all(map(shown, client.get(f"/threads/{thread['thread_id']}/runs").json()))
        assert client.delete(f"/runs/crons/{made['cron_id']}").status_code == 204
        assert files_with(guarded, SECRET) == []


@pytest.mark.parametrize(
    ("say", "status", "sentence"),
    [
        ("raise", 500, "encrypt.json raised RuntimeError"),
        ("hang", 504, "encrypt.json takes longer than 3 s"),
        ("block", 504, "encrypt.json takes too long"),
        ("rename", 500, "encrypt.json must give back an object with the same names"),
    ],
)
def test_a_handler_that_fails_lets_nothing_in(
    guarded: Deployment, say: str, status: int, sentence: str
) -> None:
    """Neither by a request nor by a cron or a run; what needs no answer goes on."""
    bad = {"say": say, "note": SECRET}
    fires = leave_cron(guarded, say)
    with serve(guarded, **JSON, GREENROOM_AUTH_TIMEOUT_SECONDS="3") as client:
        thread_id = new_thread(client)
        bodies = {
            "/threads": {},
            f"/threads/{thread_id}/runs": {"assistant_id": "nothing"},
            "/runs/crons": {"assistant_id": "nothing", "schedule": "0 0 1 1 *"},
            "/assistants": {"graph_id": "nothing"},
        }
        for path, body in bodies.items():
            refused = client.post(path, json={**body, "metadata": bad})
            assert (refused.status_code, refused.json()["detail"]) == (status, sentence)
        refused = client.patch(f"/threads/{thread_id}", json={"metadata": bad})
        assert refused.status_code == status
        given = {"input": {"text": "x"}, "config": {"configurable": bad}}
        failed = start(client, thread_id, "nothing", **given)
        until(lambda: get(client, failed)["status"] == "error")
        told = client.get(f"/threads/{thread_id}").json()["error"]
        assert told == {"error": "HandlerFailed", "message": sentence}
        until(lambda: guarded.count_log("cron slot skipped"))
        assert client.delete(f"/runs/crons/{fires}").status_code == 204
        assert join(client, start(client, thread_id, "nothing", input={"text": "z"}))["text"] == "z"
        assert files_with(guarded, SECRET) == []


def test_a_handler_that_hangs_holds_up_crons_alone(guarded: Deployment) -> None:
    """What is repaired and woken beside them, runs whose time has come, goes on."""
    calls = guarded.directory / "calls"
    leave_cron(guarded, "hang")
    patient = {"GREENROOM_AUTH_TIMEOUT_SECONDS": "600", "CALLS": str(calls)}
    with serve(guarded, **JSON, **patient) as client:
        until(lambda: "'say'" in calls.read_text())
        run = start(client, new_thread(client), "nothing", input={"text": "z"}, after_seconds=1)
        assert join(client, run)["text"] == "z"


def test_a_document_is_asked_about_once(guarded: Deployment) -> None:
    """In each process, for each kind of metadata; what the server adds is no question at all."""
    calls = guarded.directory / "calls"

    def asked(name: str) -> Counter[str]:
        lines = [line for line in calls.read_text().splitlines() if f"'{name}'" in line]
        return Counter(line.split(" ", 1)[0] for line in lines)

    with serve(guarded, **JSON, CALLS=str(calls)) as client:
        for _ in range(3):
            make(client, "/threads", metadata={"seen": 1})
        assert asked("seen") == Counter(MODELS)
        for number in range(2):
            make(client, "/threads", metadata={"counted": number})
        assert asked("counted") == Counter([*MODELS, *MODELS])
        before = len(calls.read_text().splitlines())
        for _ in range(2):
            make(client, "/runs/wait", assistant_id="nothing", input={"text": "x"})
        first = len(calls.read_text().splitlines()) - before
        make(client, "/runs/wait", assistant_id="nothing", input={"text": "x"})
        assert len(calls.read_text().splitlines()) - before == first
        assert not asked("graph_id") and not asked("langgraph_request_id")
