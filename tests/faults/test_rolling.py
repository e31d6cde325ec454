"""Processes that are asked to go, one after another, while clients are at work."""

import signal
from collections.abc import Callable

import httpx
import pytest
from clients import Failover
from deployment import Deployment, events_of, join, new_thread, start, until
from ledger import Ledger
from load import create, stream, wait, wait_stateless, working
from report import Scenario

STEPS = {"n": 6, "seconds": 0.2}


def test_a_wait_that_a_stopping_web_process_cuts_is_no_answer(deployment: Deployment) -> None:
    """The connection breaks off, so that no client takes what it has for the whole."""
    url = deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        body = {"assistant_id": "steps", "input": {"n": 20, "seconds": 0.2}}
        with http.stream("POST", f"/threads/{thread_id}/runs/wait", json=body) as response:
            place = response.headers["location"]
            deployment.webs[url].send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                response.read()
    other = deployment.start_web()
    with deployment.client(other) as http:
        assert http.get(place).json()["trail"] == list(range(20))


def test_a_stream_that_a_stopping_web_process_cuts_does_not_look_like_the_end(
    deployment: Deployment,
) -> None:
    """The connection breaks off: a clean end of the stream would say that the run is over."""
    url = deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        body = {
            "assistant_id": "steps",
            "input": STEPS,
            "stream_mode": "custom",
            "on_disconnect": "cancel",
        }
        path = f"/threads/{new_thread(http)}/runs/stream"
        with http.stream("POST", path, json=body) as response:
            place = response.headers["content-location"]
            events = events_of(response)
            assert next(events)[0] == "metadata"
            deployment.webs[url].send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                list(events)
    with deployment.client(deployment.start_web()) as http:
        until(lambda: http.get(place).json()["status"] == "success")


def test_a_stopping_worker_leaves_the_bell_to_others(deployment: Deployment) -> None:
    """What it hears while it waits for its own runs to end, no run waits a sweep for."""
    deployment.settings["GREENROOM_SWEEP_SECONDS"] = "120"
    deployment.settings["BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS"] = "120"
    deployment.start_web()
    stopping = deployment.start_worker()
    with deployment.client() as http:
        long = start(http, new_thread(http), "steps", input={"n": 30, "seconds": 1})
        deployment.worker_of(long["run_id"])
        deployment.start_worker()
        stopping.send_signal(signal.SIGTERM)
        until(lambda: deployment.count_log("worker stopping"))
        for _ in range(20):
            path, body = "/runs/wait", {"assistant_id": "steps", "input": {"n": 1, "seconds": 0}}
            assert http.post(path, json=body, timeout=20).json()["trail"] == [0]
        assert stopping.poll() is None
        assert join(http, long)["trail"] == list(range(30))


@pytest.mark.timeout(900)
def test_rolling_restarts_fail_no_request_and_charge_no_attempt(
    deployment: Deployment,
    scenario: Callable[[int, str], Scenario],
    ledger: Ledger,
    is_full: bool,
) -> None:
    """Every process is replaced, one by one, under clients that try the other on an error."""
    one = scenario(3, "SIGTERM to every process in turn, under load")
    deployment.settings["BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS"] = "1"
    urls = [deployment.start_web(), deployment.start_web()]
    deployment.start_worker()
    deployment.start_worker()
    failover = Failover(urls)
    with (
        httpx.Client(base_url="http://greenroom", transport=failover, timeout=60) as http,
        working([create, wait, wait_stateless, stream], http, ledger) as done,
    ):
        for _ in range(3 if is_full else 1):
            for url in urls:
                deployment.restart_web(url)
                one.kills += 1
            for leaving in deployment.workers[-2:]:
                leaving.send_signal(signal.SIGTERM)
                with one.recovery():
                    assert leaving.wait(timeout=30) == 0
                    deployment.start_worker()
                one.kills += 1
    # Leaving the block has raised whatever a client met.
    one.runs = sum(done)
    assert failover.repeats > 0, "no client noticed anything: the load was too small"
    ledger.check()
    assert deployment.value("SELECT max(attempt) FROM run") == 1, "an attempt was charged"
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())
