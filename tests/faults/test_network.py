"""Workers that are cut off from Postgres or from Redis, altogether or in one direction."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment, get, join, new_thread, start, until
from ledger import Ledger
from proxy import Proxy
from report import Scenario

CUTS = [
    pytest.param({"requests": True, "answers": True}, id="both ways"),
    pytest.param({"requests": True, "answers": False}, id="requests lost"),
    pytest.param({"requests": False, "answers": True}, id="answers lost"),
]
N = 32


def start_steps(http: httpx.Client, ledger: Ledger, journal: Path) -> dict[str, Any]:
    """A run whose steps write down who takes them, and when."""
    body = {"input": {"n": N, "seconds": 0.3, "path": str(journal)}}
    return ledger.accept(start(http, new_thread(http), "steps", **body), steps=N)


def steps_of(journal: Path) -> dict[int, list[float]]:
    """The times, by the clock that all processes of a machine share, at which each took a step."""
    taken = defaultdict(list)
    for line in journal.read_text().splitlines():
        moment, pid, _ = line.split()
        taken[int(pid)].append(float(moment))
    return taken


@pytest.mark.parametrize("cut", CUTS)
def test_a_worker_without_postgres_stops_before_another_begins(
    deployment: Deployment,
    ledger: Ledger,
    scenario: Callable[[int, str], Scenario],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    cut: dict[str, bool],
    is_full: bool,
) -> None:
    """It hears nothing of its loss, counts its leases itself, and takes no step after their end."""
    name = request.node.callspec.id
    one = scenario(8, f"worker cut off from Postgres: {name}")
    deployment.start_web()
    with Proxy(deployment.postgres.uri) as proxy:
        away = deployment.start_worker(DATABASE_URI=proxy.uri)
        with deployment.client() as http:
            journals = [tmp_path / str(number) for number in range(8 if is_full else 3)]
            runs = [start_steps(http, ledger, journal) for journal in journals]
            until(lambda: all(journal.exists() for journal in journals))
            other = deployment.start_worker()
            proxy.partition(**cut)
            one.kills += 1
            with one.recovery():
                until(lambda: all(other.pid in steps_of(journal) for journal in journals))
            for run, journal in zip(runs, journals, strict=True):
                assert join(http, run)["trail"] == list(range(N))
                steps = steps_of(journal)
                assert max(steps[away.pid]) < min(steps[other.pid])
                assert get(http, run)["status"] == "success"
            # What it asks for may still arrive: a run that it claims now, nobody would execute.
            assert deployment.value("SELECT max(attempt + losses) FROM run") == 2
            ledger.check()
            proxy.heal()
            other.terminate()
            other.wait(timeout=30)
            with one.recovery():
                back = start(http, new_thread(http), "where", input={"text": ""})
                assert join(http, ledger.accept(back))["trail"] == [away.pid]
            ledger.check()
    one.runs, one.lost, one.doubled = len(ledger.runs), len(ledger.lost()), len(ledger.doubled())


@pytest.mark.parametrize("cut", CUTS)
def test_a_worker_without_redis_keeps_its_runs(
    deployment: Deployment,
    ledger: Ledger,
    scenario: Callable[[int, str], Scenario],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    cut: dict[str, bool],
) -> None:
    """It claims, renews and finishes through Postgres; a cancel comes with the renewal."""
    name = request.node.callspec.id
    one = scenario(8, f"worker cut off from Redis: {name}")
    deployment.start_web()
    with Proxy(deployment.redis.uri) as proxy:
        worker = deployment.start_worker(REDIS_URI=proxy.uri)
        with deployment.client() as http:
            before = [start_steps(http, ledger, tmp_path / f"before{n}") for n in range(3)]
            until((tmp_path / "before0").exists)
            proxy.partition(**cut)
            one.kills += 1
            with one.recovery():
                found = start(http, new_thread(http), "where", input={"text": ""})
                assert join(http, ledger.accept(found))["trail"] == [worker.pid]
            unwanted = start(http, new_thread(http), "steps", input={"n": 200, "seconds": 0.3})
            until(lambda: get(http, unwanted)["status"] == "running")
            path = f"/threads/{unwanted['thread_id']}/runs/{unwanted['run_id']}/cancel"
            assert http.post(path).status_code == 202
            until(lambda: get(http, unwanted)["status"] == "interrupted")
            assert [join(http, run)["trail"] for run in before] == [list(range(N))] * 3
            assert deployment.value("SELECT max(attempt) FROM run") == 1
            proxy.heal()
            with one.recovery():
                found = start(http, new_thread(http), "where", input={"text": ""})
                assert join(http, ledger.accept(found))["trail"] == [worker.pid]
            ledger.check()
    one.runs, one.lost, one.doubled = len(ledger.runs), len(ledger.lost()), len(ledger.doubled())
