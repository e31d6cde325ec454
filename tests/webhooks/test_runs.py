"""Webhooks of runs, through HTTP, with real processes."""

import os
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest
from deployment import Deployment, get, join, new_thread, start, until

COUNT = "SELECT count(*) FROM webhook_delivery"


def deliveries(http: httpx.Client, run: dict[str, Any]) -> list[dict[str, Any]]:
    answer = http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/webhooks")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def until_delivered(http: httpx.Client, run: dict[str, Any]) -> dict[str, Any]:
    """Wait for the end of a run's one delivery."""
    (delivery,) = until(
        lambda: [one for one in deliveries(http, run) if one["status"] != "pending"]
    )
    assert delivery["status"] == "delivered", delivery
    return dict(delivery)


def test_a_finished_run_is_told_with_values_headers_and_signature(
    calling: Deployment, client: httpx.Client, receiver
) -> None:
    """The run as clients read it, its times and values; nothing about who called."""
    calling.start_worker()
    thread_id = new_thread(client)
    run = start(
        client, thread_id, "echo", input={"text": "ab"}, metadata={"m": 1}, webhook=receiver.url
    )
    (got,) = receiver.wait_for(1)
    delivery = until_delivered(client, run)
    shown = get(client, run)
    body = got.body
    assert body["values"] == {"text": "ab", "trail": ["ab"]}
    assert "error" not in body
    for key in ("run_id", "thread_id", "assistant_id", "metadata", "status", "created_at"):
        assert body[key] == shown[key]
    assert body["updated_at"] == body["run_ended_at"] == shown["updated_at"]
    assert body["created_at"] < body["run_started_at"] < body["run_ended_at"]
    assert body["run_ended_at"] < body["webhook_sent_at"]
    assert body["kwargs"]["input"] == {"text": "ab"}
    assert not [key for key in body["kwargs"]["config"]["configurable"] if "auth" in key]
    assert got.headers["x-token"] == "Bearer t0ken"
    assert got.headers["greenroom-delivery"] == delivery["delivery_id"]
    assert got.headers["greenroom-signature"].startswith("t=")
    assert delivery["url"] == receiver.url
    assert (delivery["attempts"], delivery["last_status"], delivery["last_error"]) == (1, 200, None)
    assert delivery["next_attempt_at"] is None
    assert delivery["created_at"] < delivery["delivered_at"]


def test_stateless_runs_of_every_kind_are_told(
    calling: Deployment, client: httpx.Client, receiver
) -> None:
    """Their threads are gone by then, and so are the values; the log is still there."""
    calling.start_worker()
    body = {"assistant_id": "echo", "input": {"text": "x"}, "webhook": f"{receiver.url}/x"}
    background = client.post("/runs", json=body).json()
    waited = client.post("/runs/wait", json=body)
    assert waited.json()["trail"] == ["x"]
    streamed = client.post("/runs/stream", json=body)
    assert "event: values" in streamed.text
    batch = client.post("/runs/batch", json=[body, body]).json()
    told = receiver.wait_for(5)
    assert {got.body["run_id"] for got in told} >= {one["run_id"] for one in [background, *batch]}
    assert all(got.body["values"] is None for got in told)
    assert all(got.body["status"] == "success" for got in told)
    until_delivered(client, background)
    until(lambda: calling.value(f"{COUNT} WHERE delivered_at IS NULL") == 0)
    assert calling.value("SELECT count(*) FROM thread") == 0


def test_a_kept_stateless_run_has_values(
    calling: Deployment, client: httpx.Client, receiver
) -> None:
    """Its thread is a normal one, which takes the log along when it is deleted."""
    calling.start_worker()
    body = {"assistant_id": "echo", "input": {"text": "x"}, "on_completion": "keep"}
    run = client.post("/runs", json={**body, "webhook": receiver.url}).json()
    (got,) = receiver.wait_for(1)
    assert got.body["values"]["trail"] == ["x"]
    until_delivered(client, run)
    client.delete(f"/threads/{run['thread_id']}")
    assert calling.value(COUNT) == 0


def test_a_failed_run_tells_its_error(calling: Deployment, client: httpx.Client, receiver) -> None:
    """In the words that clients read, not those of the log."""
    calling.start_worker()
    start(client, new_thread(client), "hostile", input={"kind": "raise"}, webhook=receiver.url)
    (got,) = receiver.wait_for(1)
    assert got.body["status"] == "error"
    assert got.body["error"] == {"error": "Odd", "message": "An internal error occurred"}
    assert b"hunter2" not in got.raw


def test_a_cancelled_run_tells_who_asked(
    calling: Deployment, client: httpx.Client, receiver
) -> None:
    """Cancelled while running, and with the values so far."""
    calling.start_worker()
    thread_id = new_thread(client)
    run = start(client, thread_id, "steps", input={"n": 20, "seconds": 2}, webhook=receiver.url)
    until(lambda: client.get(f"/threads/{thread_id}/state").json()["values"].get("trail"))
    path = f"/threads/{thread_id}/runs/{run['run_id']}/cancel"
    assert client.post(path, params={"wait": "1"}).status_code == 200
    (got,) = receiver.wait_for(1)
    assert got.body["status"] == "interrupted"
    assert got.body["values"]["trail"][:1] == [0]
    assert got.body["error"] == {
        "error": "UserInterrupt",
        "message": f"interrupt requested via POST {path}",
    }


def test_a_run_that_is_cancelled_before_it_starts_is_told_as_well(
    calling: Deployment, client: httpx.Client, receiver
) -> None:
    """Written by the web, of a kept and of a hidden thread; sent by the first worker there is."""
    thread_id = new_thread(client)
    kept = start(client, thread_id, "echo", input={"text": "x"}, webhook=receiver.url)
    body = {"assistant_id": "echo", "input": {"text": "x"}, "webhook": receiver.url}
    hidden = client.post("/runs", json=body).json()
    for run in (kept, hidden):
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel"
        assert client.post(path).status_code == 202
    assert [one["status"] for one in deliveries(client, kept)] == ["pending"]
    calling.start_worker()
    told = {got.body["run_id"]: got.body for got in receiver.wait_for(2)}
    for run in (kept, hidden):
        assert told[run["run_id"]]["status"] == "interrupted"
        assert told[run["run_id"]]["error"]["error"] == "UserInterrupt"
        assert told[run["run_id"]]["values"] is None
        until_delivered(client, run)


def test_a_rolled_back_run_is_not_told_of(
    calling: Deployment, client: httpx.Client, receiver
) -> None:
    """It is as if it had never been."""
    thread_id = new_thread(client)
    run = start(client, thread_id, "echo", input={"text": "x"}, webhook=receiver.url)
    path = f"/threads/{thread_id}/runs/{run['run_id']}/cancel"
    assert client.post(path, params={"action": "rollback"}).status_code == 202
    assert calling.value(COUNT) == 0
    assert client.get(f"/threads/{thread_id}/runs/{run['run_id']}/webhooks").status_code == 404


def test_a_killed_workers_delivery_is_made_by_another(
    calling: Deployment, client: httpx.Client, make_receiver
) -> None:
    """Between the end of a run and the receiver's answer nothing can be lost, only repeated."""
    first = calling.start_worker()
    receiver = make_receiver(lambda: os.kill(first.pid, signal.SIGKILL) or 200)
    run = start(client, new_thread(client), "echo", input={"text": "x"}, webhook=receiver.url)
    first.wait(timeout=20)
    assert get(client, run)["status"] == "success"
    assert [one["status"] for one in deliveries(client, run)] == ["pending"]
    # The lease of the attempt is over.
    with calling.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE webhook_delivery SET next_attempt_at = now()")
    calling.start_worker()
    delivery = until_delivered(client, run)
    assert delivery["attempts"] == 2
    told = receiver.wait_for(2)
    assert {got.headers["greenroom-delivery"] for got in told} == {delivery["delivery_id"]}
    assert {got.body["run_id"] for got in told} == {run["run_id"]}


def test_a_run_that_no_worker_survives_is_told_of(
    calling: Deployment, client: httpx.Client, receiver
) -> None:
    """Ended by the sweep of another worker, stateless or not."""
    calling.settings["BG_JOB_MAX_RETRIES"] = "1"
    body = {"assistant_id": "hostile", "input": {"kind": "die"}, "webhook": receiver.url}
    stateless = client.post("/runs", json=body).json()
    calling.run_doomed_worker()
    kept = client.post(f"/threads/{new_thread(client)}/runs", json=body).json()
    calling.run_doomed_worker()
    calling.start_worker()
    told = {got.body["run_id"]: got.body for got in receiver.wait_for(2)}
    for run in (stateless, kept):
        assert told[run["run_id"]]["status"] == "error"
        assert told[run["run_id"]]["error"]["error"] == "WorkerLost"
        until_delivered(client, run)


def test_deleting_a_thread_or_a_run_leaves_nothing_of_its_deliveries(
    calling: Deployment, client: httpx.Client, make_receiver
) -> None:
    """Whether they were delivered, given up or still owed."""
    calling.start_worker()
    receiver = make_receiver(200, 404, 500, 200)
    thread_id = new_thread(client)
    for _ in range(4):
        run = start(client, thread_id, "echo", input={"text": "x"}, webhook=receiver.url)
        join(client, run)
        until(lambda run=run: any(one["last_status"] for one in deliveries(client, run)))
    assert calling.value(COUNT) == 4
    assert client.delete(f"/threads/{thread_id}/runs/{run['run_id']}").status_code == 204
    assert calling.value(COUNT) == 3
    assert client.delete(f"/threads/{thread_id}").status_code == 204
    assert calling.value(COUNT) == 0


def test_a_path_calls_this_server(calling: Deployment, client: httpx.Client) -> None:
    """A run that ends may start what comes next."""
    calling.settings["PORT"] = calling.url.rpartition(":")[2]
    calling.start_worker()
    run = start(
        client, new_thread(client), "echo", input={"text": "x"}, webhook="/assistants/search?x=1"
    )
    assert until_delivered(client, run)["last_status"] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/threads/{t}/runs", "/threads/{t}/runs/wait", "/threads/{t}/runs/stream"),
        *("/runs", "/runs/wait", "/runs/stream", "/runs/batch"),
    ],
)
def test_every_kind_of_run_checks_its_webhook(
    server: Deployment, http: httpx.Client, path: str
) -> None:
    """Before it is let in; the sentence names the field."""
    body: Any = {"assistant_id": "echo", "webhook": "http://127.0.0.1:1/"}
    path = path.replace("{t}", new_thread(http))
    answer = http.post(path, json=[body] if path.endswith("batch") else body)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("webhook ")


def test_the_log_of_a_run_without_a_webhook_is_empty(http: httpx.Client) -> None:
    """And that of no run is not found."""
    run = start(http, new_thread(http), "echo", input={"text": "x"})
    assert deliveries(http, run) == []
    run["run_id"] = run["thread_id"]
    answer = http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/webhooks")
    assert answer.status_code == 404


def test_the_command_prints_the_log(
    calling: Deployment, client: httpx.Client, make_receiver
) -> None:
    """Newest first, or only what was given up."""
    calling.start_worker()
    thread_id = new_thread(client)
    runs = []
    for status in (200, 410):
        url = make_receiver(status).url
        runs.append(start(client, thread_id, "echo", input={"text": "x"}, webhook=url))
        until(lambda: any(one["last_status"] for one in deliveries(client, runs[-1])))

    def lines(*options: str) -> list[str]:
        command = [sys.executable, "-P", "-m", "greenroom.cli.main", "webhooks", *options]
        done = subprocess.run(
            command, env=calling.environment(), capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    title, failed, delivered = lines()
    assert title.split()[:4] == ["CREATED", "STATUS", "ATTEMPTS", "HTTP"]
    assert " delivered " in delivered
    assert runs[0]["run_id"] in delivered
    assert "answered with HTTP 410" in failed
    _, *given_up = lines("--failed")
    assert [" failed " in line for line in given_up] == [True]
    assert len(lines("--limit", "1")) == 2
