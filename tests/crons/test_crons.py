"""Crons over HTTP, fired by real workers."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from deployment import Deployment, new_thread, until

NEVER = "0 0 1 1 *"
EVERY_SECOND = "* * * * * *"


@pytest.fixture
def mark(http: httpx.Client) -> Iterator[str]:
    """A marker for the metadata; the crons that carry it are deleted at the end."""
    mark = str(uuid4())
    yield mark
    for cron in search(http, metadata={"mark": mark}, limit=1000):
        http.delete(f"/runs/crons/{cron['cron_id']}")


def create(
    http: httpx.Client, mark: str, thread_id: str | None = None, **fields: Any
) -> dict[str, Any]:
    body = {"assistant_id": "echo", "schedule": NEVER, **fields}
    body["metadata"] = {"mark": mark, **fields.get("metadata", {})}
    path = f"/threads/{thread_id}/runs/crons" if thread_id else "/runs/crons"
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def search(http: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    answer = http.post("/runs/crons/search", json=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def patch(http: httpx.Client, cron: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = http.patch(f"/runs/crons/{cron['cron_id']}", json=fields)
    assert answer.status_code == 200, answer.text
    changed: dict[str, Any] = answer.json()
    return changed


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    detail: str = answer.json()["detail"]
    return detail


def test_a_cron_shows_all_that_it_is(http: httpx.Client, mark: str) -> None:
    """In the reference's order; the payload is the request with the cron's own id."""
    sent = {
        "assistant_id": "echo",
        "schedule": NEVER,
        "timezone": "Europe/Paris",
        "input": {"text": "x"},
        "metadata": {"mark": mark},
        "config": {"tags": ["t"]},
        "end_time": "2999-06-01T12:00:00+02:00",
        "unknown": 1,
    }
    made = http.post("/runs/crons", json=sent).json()

    assert list(made) == [
        *("cron_id", "assistant_id", "thread_id", "user_id", "end_time", "schedule", "timezone"),
        *("payload", "next_run_date", "metadata", "on_run_completed", "enabled"),
        *("created_at", "updated_at"),
    ]
    assert UUID(made["cron_id"]).version == 7
    assert made["user_id"] == ""
    assert made["end_time"] == "2999-06-01T10:00:00+00:00"
    assert made["next_run_date"].endswith("-12-31T23:00:00+00:00")
    assert made["on_run_completed"] == "delete"
    del sent["unknown"]
    assert made["payload"] == {
        **sent,
        "end_time": made["end_time"],
        "config": {"tags": ["t"], "configurable": {"cron_id": made["cron_id"]}},
    }
    assert http.get(f"/runs/crons/{made['cron_id']}").json() == made


def test_a_threads_cron_ignores_what_becomes_of_threads(http: httpx.Client, mark: str) -> None:
    """Clients may send on_run_completed all the same."""
    thread_id = new_thread(http)
    made = create(http, mark, thread_id, on_run_completed="keep")
    assert made["thread_id"] == thread_id
    assert made["on_run_completed"] is None
    assert patch(http, made, on_run_completed="delete")["on_run_completed"] is None


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"schedule": "bad"}, 422, "Invalid cron schedule: 'bad'. Reason: "),
        ({"timezone": "Mars/X"}, 422, "Invalid timezone: 'Mars/X'. "),
        ({"schedule": None}, 422, "schedule"),
        ({"timezone": None}, 422, "timezone"),
        ({"end_time": "tomorrow"}, 422, "end_time"),
        ({"end_time": 5}, 422, "end_time"),
        ({"end_time": "0001-01-01T00:00:00"}, 422, "end_time"),
        ({"enabled": "yes"}, 422, "enabled"),
        ({"on_run_completed": "burn"}, 422, "on_run_completed"),
        ({"stream_mode": "loud"}, 422, "stream_mode"),
        ({"webhook": ""}, 422, "webhook"),
        ({"config": {"configurable": {"a": 1}}, "context": {"b": 1}}, 400, "configurable"),
        ({"assistant_id": "nope"}, 404, "Assistant 'nope' not found"),
    ],
)
def test_what_makes_no_cron_is_named(
    http: httpx.Client, fields: dict[str, Any], status: int, words: str
) -> None:
    """In a sentence with the field or the value."""
    body = {"assistant_id": "echo", "schedule": NEVER, **fields}
    assert words in refused(http.post("/runs/crons", json=body), status)


def test_missing_fields_ids_and_bodies(http: httpx.Client) -> None:
    """422 for what has the wrong form, 404 for what is not there, 400 for a change of nothing."""
    nobody = f"/runs/crons/{uuid4()}"
    assert "schedule" in refused(http.post("/runs/crons", json={"assistant_id": "echo"}), 422)
    assert "assistant_id" in refused(http.post("/runs/crons", json={"schedule": NEVER}), 422)
    assert refused(http.get("/runs/crons/bad"), 422) == "Invalid cron ID: must be a UUID"
    assert refused(http.get(nobody), 404) == "Not Found"
    assert refused(http.delete(nobody), 404) == "Not Found"
    assert "not found" in refused(http.patch(nobody, json={"enabled": False}), 404)
    assert refused(http.patch(nobody, json={}), 400) == "Request body cannot be empty"
    body = {"assistant_id": "echo", "schedule": NEVER}
    refused(http.post(f"/threads/{uuid4()}/runs/crons", json=body), 404)
    refused(http.post("/threads/bad/runs/crons", json=body), 422)


def test_a_patch_changes_what_it_names(http: httpx.Client, mark: str) -> None:
    """Metadata is merged, the rest replaced; all of it mirrored in the payload."""
    made = create(http, mark, input={"a": 1}, config={"tags": ["t"]}, context={"tone": "dry"})
    changed = patch(
        http,
        made,
        schedule="0 0 2 2 *",
        timezone="Asia/Tokyo",
        end_time="2999-01-01T00:00:00Z",
        metadata={"x": 1},
        input={"b": 2},
        context={"tone": "wet"},
        durability="sync",
    )
    assert changed["next_run_date"].endswith("-02-01T15:00:00+00:00")
    assert changed["metadata"] == changed["payload"]["metadata"] == {"mark": mark, "x": 1}
    assert changed["updated_at"] > made["updated_at"]
    assert changed["created_at"] == made["created_at"]
    payload = changed["payload"]
    assert payload["schedule"] == "0 0 2 2 *"
    assert payload["input"] == {"b": 2}
    assert payload["context"] == {"tone": "wet"}
    assert payload["config"] == {
        "tags": ["t"],
        "configurable": {"cron_id": made["cron_id"]},
    }
    assert patch(http, changed, end_time=None)["end_time"] is None


def test_the_last_word_on_configurable_and_context_counts(http: httpx.Client, mark: str) -> None:
    """A patch of one takes the other's place; both at once contradict."""
    made = create(http, mark, context={"tone": "dry"})
    changed = patch(http, made, config={"configurable": {"tone": "wet"}})
    assert "context" not in changed["payload"]
    changed = patch(http, made, context={"tone": "dry"})
    assert changed["payload"]["config"]["configurable"] == {"cron_id": made["cron_id"]}
    both = {"config": {"configurable": {"a": 1}}, "context": {"b": 1}}
    refused(http.patch(f"/runs/crons/{made['cron_id']}", json=both), 400)


def test_search_and_count(http: httpx.Client, mark: str) -> None:
    """By thread, assistant, metadata and whether it is on; a page at a time."""
    thread_id = new_thread(http)
    first = create(http, mark, enabled=False, metadata={"n": 1})
    second = create(http, mark, thread_id)
    third = create(http, mark)
    mine = {"metadata": {"mark": mark}}

    assert search(http, **mine) == [third, second, first]
    assert search(http, **mine, sort_order="asc") == [first, second, third]
    assert search(http, **mine, enabled=False) == [first]
    assert search(http, thread_id=thread_id) == [second]
    assert search(http, **mine, assistant_id=str(uuid4())) == []
    assert search(http, **mine, assistant_id=first["assistant_id"], limit=1) == [third]
    assert search(http, metadata={"mark": mark, "n": 1}, select=["enabled", "cron_id"]) == [
        {"cron_id": first["cron_id"], "enabled": False}
    ]
    page = http.post("/runs/crons/search", json={**mine, "limit": 2})
    assert page.headers["x-pagination-next"] == "2"
    assert page.headers["x-pagination-total"] == "3"
    assert http.post("/runs/crons/count", json=mine).json() == 3
    assert http.post("/runs/crons/count", json={"thread_id": thread_id}).json() == 1
    for column in ("thread_id", "next_run_date", "end_time", "updated_at", "assistant_id"):
        assert len(search(http, **mine, sort_by=column)) == 3


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 1001},
        {"offset": -1},
        {"assistant_id": "echo"},
        {"sort_by": "payload"},
        {"select": ["secret"]},
        {"metadata": None},
    ],
)
def test_a_bad_search_is_refused(http: httpx.Client, query: dict[str, Any]) -> None:
    """With the name of the field."""
    assert next(iter(query)) in refused(http.post("/runs/crons/search", json=query), 422)


def test_a_cron_of_every_second_fires_on_its_thread(http: httpx.Client, mark: str) -> None:
    """Run after run, by itself, until it is switched off; each a normal run to its end."""
    thread_id = new_thread(http)
    cron = create(http, mark, thread_id, schedule=EVERY_SECOND, input={"text": "tick"})

    def ended() -> bool:
        runs = http.get(f"/threads/{thread_id}/runs").json()
        return len([run for run in runs if run["status"] == "success"]) >= 3

    until(ended, 15)
    after = patch(http, cron, enabled=False)
    assert after["next_run_date"] > cron["next_run_date"]
    state = http.get(f"/threads/{thread_id}/state").json()
    assert state["values"]["trail"][:3] == ["tick"] * 3
    run = http.get(f"/threads/{thread_id}/runs").json()[-1]
    assert run["metadata"]["mark"] == mark
    assert run["kwargs"]["config"]["configurable"]["cron_id"] == cron["cron_id"]
    late = datetime.fromisoformat(run["created_at"]) - datetime.fromisoformat(cron["next_run_date"])
    assert 0 <= late.total_seconds() < 10


def test_threads_of_a_cron_without_one(http: httpx.Client, server: Deployment, mark: str) -> None:
    """Kept threads carry its metadata; the others are gone once their run has ended."""
    kept = create(
        http,
        mark,
        schedule=EVERY_SECOND,
        on_run_completed="keep",
        input={"text": "tick"},
        metadata={"kind": "kept"},
    )
    query = {"metadata": {"mark": mark, "kind": "kept"}, "status": "idle"}
    thread = until(lambda: http.post("/threads/search", json=query).json(), 15)[0]
    patch(http, kept, enabled=False)
    assert thread["values"]["trail"] == ["tick"]

    dropped = create(http, mark, schedule=EVERY_SECOND, metadata={"kind": "dropped"})
    used = "SELECT count(*) FROM cron_firing WHERE cron_id = CAST(:id AS uuid)"
    until(lambda: server.value(used, id=dropped["cron_id"]) >= 2, 15)
    patch(http, dropped, enabled=False)
    query = {"metadata": {"mark": mark, "kind": "dropped"}}
    until(lambda: http.post("/threads/count", json=query).json() == 0, 15)


def test_two_workers_and_a_killed_one_fire_each_slot_once(deployment: Deployment) -> None:
    """As many runs as slots, before and after a worker dies."""
    deployment.start_web()
    first, _ = deployment.start_worker(), deployment.start_worker()
    used = "SELECT count(*) FROM cron_firing"
    with deployment.client() as http:
        thread_id = new_thread(http)
        cron = create(http, "x", thread_id, schedule=EVERY_SECOND)
        until(lambda: deployment.value(used) >= 2, 15)
        first.kill()
        seen = deployment.value(used)
        until(lambda: deployment.value(used) >= seen + 2, 15)
        patch(http, cron, enabled=False)
        runs = "SELECT count(*) FROM run WHERE thread_id = CAST(:id AS uuid)"
        assert deployment.value(runs, id=thread_id) == deployment.value(used)
    deployment.assert_consistent()
