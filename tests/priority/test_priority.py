"""The owner's priority handler, and the order of runs that follows from it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment, join, new_thread, start, until

PROJECT = Path(__file__).parent / "project" / "langgraph.json"
STANDING = (
    "SELECT priority || ' ' || coalesce(fairness_group, '-') FROM {} "
    "WHERE thread_id = CAST(:thread_id AS uuid) LIMIT 1"
)
ORDER = (
    "SELECT string_agg(metadata ->> 'name', ' ' ORDER BY started_at) FROM run "
    "WHERE metadata ->> 'test' = :test AND started_at IS NOT NULL"
)
LEFT = "SELECT count(*) FROM run WHERE metadata ->> 'test' = :test AND finished_at IS NULL"


@pytest.fixture(scope="module")
def idle() -> Iterator[Deployment]:
    """A web process whose runs nobody executes."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        settings = {"GREENROOM_AUTH_TIMEOUT_SECONDS": "1"}
        with Deployment(Path(directory), PROJECT, **settings) as made:
            made.start_web()
            yield made


@pytest.fixture
def http(idle: Deployment) -> Iterator[httpx.Client]:
    """Its client."""
    with idle.client() as client:
        yield client


def thread_of(http: httpx.Client, **metadata: Any) -> str:
    """Make a thread with metadata."""
    answer = http.post("/threads", json={"metadata": metadata})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["thread_id"])


def queue(http: httpx.Client, test: str, name: str, **thread: Any) -> None:
    """Queue a run on a thread of its own."""
    start(http, thread_of(http, **thread), "nothing", metadata={"test": test, "name": name})


def executed(deployment: Deployment, test: str) -> list[str]:
    """Let one worker with one slot execute what is queued; the runs' names in that order."""
    worker = deployment.start_worker(N_JOBS_PER_WORKER="1")
    until(lambda: deployment.value(LEFT, test=test) == 0)
    worker.terminate()
    worker.wait(30)
    return str(deployment.value(ORDER, test=test)).split()


def test_urgent_threads_come_first(idle: Deployment, http: httpx.Client) -> None:
    """Whatever the order in which they came; equals in that order."""
    for name, priority in (("e", 5), ("c", 0), ("a", -5), ("d", 0), ("b", -4)):
        queue(http, "urgent", name, priority=priority)
    assert executed(idle, "urgent") == ["a", "b", "c", "d", "e"]


def test_a_flood_of_one_group_does_not_hold_up_another(
    idle: Deployment, http: httpx.Client
) -> None:
    """Groups take turns, however much one of them has queued before."""
    for number in range(30):
        queue(http, "flood", f"flood{number}", group="loud")
    for number in range(3):
        queue(http, "flood", f"quiet{number}", group="quiet")
    order = executed(idle, "flood")
    assert len(order) == 33
    assert max(order.index(f"quiet{number}") for number in range(3)) <= 6
    floods = [name for name in order if name.startswith("flood")]
    assert floods == [f"flood{number}" for number in range(30)]


def test_a_flood_of_urgent_runs_does_not_starve_the_others(
    idle: Deployment, http: httpx.Client
) -> None:
    """The least urgent waits for no more than its share says: 1.5 ** 10 of the most urgent."""
    queue(http, "starve", "late", priority=5, group="poor")
    for number in range(80):
        queue(http, "starve", f"urgent{number}", priority=-5, group="rich")
    order = executed(idle, "starve")
    assert 50 <= order.index("late") <= 59


def test_runs_of_one_group_come_by_their_priority(idle: Deployment, http: httpx.Client) -> None:
    """An urgent one need not wait for what its group has queued."""
    for number in range(20):
        queue(http, "within", f"batch{number}", priority=5, group="one")
    queue(http, "within", "urgent", priority=-5, group="one")
    assert executed(idle, "within")[0] == "urgent"


def test_a_thread_keeps_its_settings(idle: Deployment, http: httpx.Client) -> None:
    """The first run's answer holds; nobody is asked again, and the queue of the thread goes on."""
    thread_id = thread_of(http, priority=3, group="kept")
    metadata = {"test": "keeps"}
    first = start(http, thread_id, "nothing", metadata={**metadata, "name": "first"})
    assert idle.value(STANDING.format("thread"), thread_id=thread_id) == "3 kept"
    answer = http.patch(f"/threads/{thread_id}", json={"metadata": {"group": "other"}})
    assert answer.status_code == 200
    second = start(http, thread_id, "nothing", metadata={**metadata, "name": "second"})
    start(http, thread_id, "nothing", metadata={**metadata, "name": "third", "say": "raise"})
    assert executed(idle, "keeps") == ["first", "second", "third"]
    assert idle.value(STANDING.format("run"), thread_id=thread_id) == "3 kept"
    assert {"priority", "fairness_group", "turn"}.isdisjoint({**first, **second})


def test_the_handler_is_told_who_and_what(idle: Deployment, http: httpx.Client) -> None:
    """Without auth there is nobody; a run that makes its thread has none to name."""
    thread_id = new_thread(http)
    start(http, thread_id, "nothing", metadata={"say": "tell"})
    told = idle.value(STANDING.format("thread"), thread_id=thread_id)
    assert told == "0 ''|[]|thread|nothing|assistant|system|None"
    body = {"assistant_id": "nothing", "metadata": {"say": "tell"}, "on_completion": "keep"}
    run = http.post("/runs", json=body).json()
    told = idle.value(STANDING.format("thread"), thread_id=run["thread_id"])
    assert told == "0 ''|[]|none|nothing|assistant|system|None"


def test_no_answer_is_the_default(idle: Deployment, http: httpx.Client) -> None:
    """None, or nothing in it: priority 0 in the group that all share."""
    for metadata in (
        {"say": "nothing"},
        {"say": {"answer": {}}},
        {"say": {"answer": {"fairness_group": ""}}},
    ):
        thread_id = new_thread(http)
        start(http, thread_id, "nothing", metadata=metadata)
        assert idle.value(STANDING.format("thread"), thread_id=thread_id) == "0 default"


@pytest.mark.parametrize(
    ("say", "status", "detail"),
    [
        ("raise", 500, "The priority handler raised RuntimeError"),
        ("sleep", 504, "takes too long"),
        ({"answer": {"priority": 6}}, 500, "between -5 and 5"),
        ({"answer": {"priority": "0"}}, 500, "priority must be an integer"),
        ({"answer": {"priority": True}}, 500, "priority must be an integer"),
        ({"answer": {"fairness_group": "x" * 257}}, 500, "at most 256 characters"),
        ({"answer": {"fairness_group": 7}}, 500, "fairness_group must be a string"),
        ({"answer": [1]}, 500, "not a mapping"),
    ],
)
def test_a_handler_that_fails_refuses_the_run_and_is_asked_again(
    idle: Deployment, http: httpx.Client, say: Any, status: int, detail: str
) -> None:
    """Nothing is stored, and nothing of the owner's code is told."""
    thread_id = thread_of(http, priority=-1, group="again")
    body = {"assistant_id": "nothing", "metadata": {"say": say}}
    answer = http.post(f"/threads/{thread_id}/runs", json=body)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]
    assert "secret" not in answer.text
    assert http.get(f"/threads/{thread_id}/runs").json() == []
    assert http.get(f"/threads/{thread_id}").json()["status"] == "idle"
    start(http, thread_id, "nothing")
    assert idle.value(STANDING.format("thread"), thread_id=thread_id) == "-1 again"


def test_a_run_of_a_cron_is_asked_about_where_it_fires(
    idle: Deployment, http: httpx.Client
) -> None:
    """By the worker, with the cron's id; a handler that fails costs no slot."""
    thread_id, unlucky = new_thread(http), new_thread(http)
    every_second = {"assistant_id": "nothing", "schedule": "* * * * * *"}
    cron = http.post(f"/threads/{thread_id}/runs/crons", json=every_second).json()
    failing = {**every_second, "metadata": {"say": "raise"}}
    assert http.post(f"/threads/{unlucky}/runs/crons", json=failing).status_code == 200
    worker = idle.start_worker()
    try:
        for one in (thread_id, unlucky):
            until(lambda one=one: http.get(f"/threads/{one}/runs").json() != [])
            join(http, http.get(f"/threads/{one}/runs").json()[-1])
    finally:
        worker.terminate()
        worker.wait(30)
    standing = idle.value(STANDING.format("thread"), thread_id=thread_id)
    assert standing == f"2 cron {cron['cron_id']}"
    assert idle.value(STANDING.format("thread"), thread_id=unlucky) == "0 -"
    assert idle.count_log("cron fires unasked") > 0
