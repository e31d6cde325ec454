"""What a client may say when it creates a run, beyond the reference."""

import gzip
import json
import re
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment, join, new_thread, start, until

from greenroom.contract.fields import UUID_FORM
from greenroom_workers.outcomes import LARGEST_ANSWER_BYTES


def post(http: httpx.Client, path: str, key: str, **body: object) -> httpx.Response:
    """Create a run under an Idempotency-Key."""
    content = {"assistant_id": "echo", "input": {"text": "x"}, **body}
    return http.post(path, json=content, headers={"idempotency-key": key})


def test_a_repeated_request_gets_the_run_of_the_first(http: httpx.Client) -> None:
    """A client that lost the answer may ask again: one run, the same answer."""
    path, key = f"/threads/{new_thread(http)}/runs", str(uuid4())
    first, second = post(http, path, key), post(http, path, key)
    assert first.json() == second.json()
    assert first.headers["content-location"] == second.headers["content-location"]
    assert len(http.get(path).json()) == 1


def test_the_same_key_for_another_request_is_refused(http: httpx.Client) -> None:
    """A key stands for one body on one path; anything else is the client's mistake."""
    path, key = f"/threads/{new_thread(http)}/runs", str(uuid4())
    assert post(http, path, key).status_code == 200
    assert post(http, path, key, metadata={"other": 1}).status_code == 409
    assert post(http, f"/threads/{new_thread(http)}/runs", key).status_code == 409


@pytest.mark.parametrize(
    "guard", [{}, {"multitask_strategy": "reject"}, {"if_thread_status": "idle"}]
)
def test_requests_with_one_key_at_once_make_one_run(
    server: Deployment, guard: dict[str, str]
) -> None:
    """The others wait for the first and get its run: none meets the run of its own twin."""
    key = str(uuid4())
    with server.client() as http:
        path = f"/threads/{new_thread(http)}/runs"

    def ask(_number: int) -> str:
        with server.client() as own:
            return str(post(own, path, key, **guard).json()["run_id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1


@pytest.mark.parametrize("path", ["/runs/wait", "/threads/{}/runs/wait"])
def test_waiting_again_gives_the_same_output(http: httpx.Client, path: str) -> None:
    """Also for a stateless run, whose thread is gone by then."""
    path, key = path.format(new_thread(http)), str(uuid4())
    answers = [post(http, path, key).json() for _ in range(2)]
    assert answers[0]["trail"] == ["x"]
    assert answers[0] == answers[1]


def test_streaming_again_replays_a_resumable_run(http: httpx.Client) -> None:
    """The repeated request follows the run of the first from its start."""
    path, key = f"/threads/{new_thread(http)}/runs/stream", str(uuid4())
    texts = [post(http, path, key, stream_resumable=True).text for _ in range(2)]
    assert texts[0].count("event: values") == 2
    assert texts[0] == texts[1]


def test_an_overlong_key_is_refused_by_name(http: httpx.Client) -> None:
    """The sentence tells which header is wrong."""
    answer = post(http, f"/threads/{new_thread(http)}/runs", "k" * 300)
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.json()["detail"]


def test_a_run_may_ask_for_a_thread_in_a_certain_state(http: httpx.Client) -> None:
    """An answer to a question that is no longer asked is refused instead of misread."""
    thread_id = new_thread(http)
    path = f"/threads/{thread_id}/runs"
    body = {"assistant_id": "ask", "command": {"resume": "y"}, "if_thread_status": "interrupted"}
    refused = http.post(path, json=body)
    assert refused.status_code == 409
    assert "idle" in refused.json()["detail"]
    join(http, start(http, thread_id, "ask", input={"text": "?"}))
    assert join(http, http.post(path, json=body).json())["trail"] == ["y"]
    assert http.post(path, json=body).status_code == 409
    assert http.post(path, json={**body, "if_thread_status": ["idle", "error"]}).status_code == 200
    assert http.post(path, json={**body, "if_thread_status": "asleep"}).status_code == 422


def test_large_answers_are_compressed_and_streams_are_not(http: httpx.Client) -> None:
    """Clients that take gzip get it where it is worth it."""
    thread_id = new_thread(http)
    text = "large " * 5000
    headers = {"accept-encoding": "gzip"}
    streamed = http.post(
        f"/threads/{thread_id}/runs/stream",
        json={"assistant_id": "echo", "input": {"text": text}},
        headers=headers,
    )
    assert "content-encoding" not in streamed.headers
    with http.stream("GET", f"/threads/{thread_id}/state", headers=headers) as response:
        assert response.headers["content-encoding"] == "gzip"
        raw = b"".join(response.iter_raw())
    assert json.loads(gzip.decompress(raw))["values"]["text"] == text
    small = http.get("/ok", headers=headers)
    assert "content-encoding" not in small.headers


def test_metadata_of_assistant_thread_and_run_come_together(http: httpx.Client) -> None:
    """A run shows them all, the nearer winning, and so do its checkpoints."""
    thread_id = http.post("/threads", json={"metadata": {"owner": "me", "k": 0}}).json()[
        "thread_id"
    ]
    run = start(http, thread_id, "echo", input={"text": "x"}, metadata={"k": 1})
    assert run["metadata"].items() >= {"created_by": "system", "owner": "me", "k": 1}.items()
    join(http, run)
    metadata = http.get(f"/threads/{thread_id}/state").json()["metadata"]
    assert metadata.items() >= {"owner": "me", "k": 1}.items()


def test_deep_nesting_is_refused_by_name(http: httpx.Client) -> None:
    """What could never be written again is not let in, and costs no stack."""
    for depth in (150, 1000, 100_000):
        body = '{"metadata":' + '{"a":' * depth + "1" + "}" * depth + "}"
        answer = http.post("/threads", content=body)
        assert answer.status_code == (200 if depth == 150 else 422)


def test_metrics_count_slots_and_requests(http: httpx.Client) -> None:
    """The names that dashboards look for, in both forms."""
    until(lambda: http.get("/metrics?format=json").json()["workers"]["max"] >= 10)
    text = http.get("/metrics").text
    for name in (
        *("lg_api_num_pending_runs", "lg_api_num_running_runs", "lg_api_workers_max"),
        *("lg_api_http_requests_total", "lg_api_http_requests_latency_seconds_bucket"),
    ):
        assert name in text
    paths = re.findall(r'path="([^"]*)"', text)
    assert "/threads" in paths
    assert not [path for path in paths if UUID_FORM.search(path)], "a series for each id"


@pytest.mark.parametrize("is_stateless", [False, True])
@pytest.mark.parametrize(
    ("graph", "given"),
    [
        pytest.param("echo", {"text": "x"}, id="small"),
        pytest.param("echo", {"text": "x" * LARGEST_ANSWER_BYTES}, id="too large for the news"),
        pytest.param("ask", {"text": "well?"}, id="a question"),
        pytest.param("hostile", {"kind": "raise"}, id="a failure"),
    ],
)
def test_who_waits_reads_what_a_joiner_reads(
    http: httpx.Client, graph: str, given: dict[str, str], *, is_stateless: bool
) -> None:
    """The answer may have come with the news of the end, or from Postgres: the same bytes."""
    place = "" if is_stateless else f"/threads/{new_thread(http)}"
    body = {"assistant_id": graph, "input": given}
    waited = http.post(f"{place}/runs/wait", json=body)
    joined = http.get(f"{waited.headers['content-location']}/join")
    assert waited.status_code == joined.status_code == 200
    assert waited.content.lstrip(b"\n") == joined.content.lstrip(b"\n")
    assert len(waited.content) > len(next(iter(given.values())))
