"""The two strings that a run has in Redis: the count of its attempts, and the flag that cancels."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
from deployment import Deployment, get, join, new_thread, start, until

from greenroom.signals.keys import ATTEMPT_SECONDS, CANCEL_SECONDS

LONG = {"input": {"n": 1, "seconds": 60}}


@pytest.fixture
def signals(server: Deployment) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.redis.uri) as client:
        yield client


def attempt_key(signals: redis.Redis, run: dict[str, Any]) -> bytes:
    """The key of a run's count, as soon as there is one."""
    found = until(lambda: list(signals.scan_iter(match=f"*:attempt:{run['run_id']}")))
    assert len(found) == 1
    return bytes(found[0])


def test_a_run_that_lasts_counts_its_attempt_in_a_string_that_expires(
    http: httpx.Client, signals: redis.Redis
) -> None:
    run = start(http, new_thread(http), "steps", **LONG)
    key = attempt_key(signals, run)
    assert signals.get(key) == b"1"
    assert 0 < signals.ttl(key) <= ATTEMPT_SECONDS
    http.post(f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel?wait=true")
    assert get(http, run)["status"] == "interrupted"


def test_a_flag_that_nobody_published_stops_a_run_that_goes_on(
    http: httpx.Client, signals: redis.Redis
) -> None:
    """The string alone: its message came while no worker had the run."""
    thread_id = new_thread(http)
    first = start(http, thread_id, "steps", **LONG)
    second = start(http, thread_id, "steps", multitask_strategy="enqueue", **LONG)
    third = start(
        http,
        thread_id,
        "steps",
        multitask_strategy="enqueue",
        input={"n": 1, "seconds": 0},
    )
    flag = attempt_key(signals, first).decode().replace("attempt", "cancel")
    flag = flag.replace(first["run_id"], second["run_id"])
    signals.set(flag, "interrupt", ex=CANCEL_SECONDS)
    http.post(f"/threads/{thread_id}/runs/{first['run_id']}/cancel?wait=true")
    until(lambda: get(http, second)["status"] == "interrupted")
    join(http, third)
    assert get(http, third)["status"] == "success"
