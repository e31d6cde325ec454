"""Web processes that die between two steps of a request, and under their clients' streams."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import uuid4

import httpx
import pytest
from clients import post_once, retrying
from deployment import Deployment, events_of, get, join, new_thread, until
from killing import kill_web, serving_process, suspend
from ledger import Ledger
from proxy import Proxy
from report import Scenario

Open = Callable[[int, str], Scenario]

STEPS = {"n": 12, "seconds": 0.15}
PENDING = "SELECT count(*) FROM run WHERE status = 'pending'"


def test_a_run_whose_web_died_before_the_bell_is_executed(
    deployment: Deployment, scenario: Open, ledger: Ledger
) -> None:
    """The sweep finds it; the client that asks again with its key gets that very run."""
    one = scenario(2, "kill -9 web between commit and bell")
    with Proxy(deployment.redis.uri) as proxy:
        url = deployment.start_web(REDIS_URI=proxy.uri)
        other = deployment.start_web()
        worker = deployment.start_worker()
        with deployment.client(other) as http, deployment.client(url) as doomed:
            thread_id = new_thread(http)
            suspend(worker.pid)
            proxy.partition()
            key = {"idempotency-key": str(uuid4())}
            path = f"/threads/{thread_id}/runs"
            body = {"assistant_id": "echo", "input": {"text": "x"}}
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(doomed.post, path, json=body, headers=key)
                until(lambda: deployment.value(PENDING) == 1)
                kill_web(deployment, url)
                one.kills += 1
                # It does not wait for the bell, and may have its answer.
                with suppress(httpx.TransportError):
                    assert asked.result(timeout=30).status_code == 200
            with one.recovery():
                worker.send_signal(signal.SIGCONT)
                until(lambda: deployment.value(PENDING) == 0)
            again = http.post(path, json=body, headers=key)
            assert again.status_code == 200, again.text
            (run,) = http.get(path).json()
            assert again.json()["run_id"] == run["run_id"]
            assert join(http, ledger.accept(run))["trail"] == ["x"]
    one.runs = 1
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


@pytest.mark.parametrize("whom", ["machine", "server", "supervisor"])
def test_readers_of_a_killed_web_go_on_elsewhere_where_they_stopped(
    deployment: Deployment, scenario: Open, ledger: Ledger, whom: str
) -> None:
    """No gap and no repeat with Last-Event-ID, at the other web process or the same one again.

    The machine takes all processes of `greenroom web` at once. The server alone is the gunicorn
    worker, which is started again; the supervisor alone leaves the others to end by themselves.
    """
    one = scenario(2, f"kill -9 web mid-stream: {whom}")
    urls = [deployment.start_web(), deployment.start_web()]
    deployment.start_worker()
    with retrying(urls) as http, ThreadPoolExecutor(4) as pool:
        runs = []
        for _ in range(4):
            body = {
                "assistant_id": "steps",
                "input": STEPS,
                "stream_mode": ["custom", "updates"],
                "stream_resumable": True,
            }
            run = post_once(http, f"/threads/{new_thread(http)}/runs", body)
            runs.append(ledger.accept(run, steps=STEPS["n"]))
        readings = [pool.submit(ledger.read, http, run) for run in runs]
        for url in urls:
            # A stream of our own on this very process tells that it streams, and when it is dead.
            place = f"/threads/{runs[0]['thread_id']}/runs/{runs[0]['run_id']}/stream"
            with deployment.client(url) as direct:
                headers = {"last-event-id": "-1"}
                with direct.stream("GET", place, headers=headers) as response:
                    next(events_of(response))
                    with one.recovery():
                        end(deployment, url, whom)
                        one.kills += 1
                        if whom == "server":
                            until(lambda url=url: is_up(url))
                        else:
                            deployment.start_web(int(url.rpartition(":")[2]))
        for reading in readings:
            numbers = [int(event_id.rpartition("-")[2]) for event_id in reading.result().ids]
            assert numbers == list(range(len(numbers))), "a gap or a repeat"
            assert reading.result().steps == list(range(STEPS["n"]))
        assert {get(http, run)["status"] for run in runs} == {"success"}
    one.runs = len(runs)
    ledger.check()
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def end(deployment: Deployment, url: str, whom: str) -> None:
    """SIGKILL a web process, or one of its processes."""
    if whom == "machine":
        kill_web(deployment, url)
    elif whom == "server":
        serving_process(deployment, url).kill()
    else:
        process = deployment.webs.pop(url)
        process.kill()
        process.wait()


def is_up(url: str) -> bool:
    """The web process answers."""
    try:
        return httpx.get(f"{url}/ok", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
