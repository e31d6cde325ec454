"""Code that blocks, spins or crashes: its run ends, other runs go on, and the log says which."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment, events_of, get, join, new_thread, start, until
from ledger import Ledger
from report import Scenario

TIMEOUT_SECONDS = 2


@pytest.fixture(scope="module")
def stormy() -> Iterator[Deployment]:
    """A server whose runs may take two seconds, and whose worker is started again when it dies."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory), BG_JOB_TIMEOUT_SECS=str(TIMEOUT_SECONDS)) as made:
            made.start_web()
            made.start_supervised_worker()
            yield made


@pytest.fixture
def http(stormy: Deployment) -> Iterator[httpx.Client]:
    """A client of that server."""
    with stormy.client() as client:
        yield client


@pytest.fixture
def ledger(stormy: Deployment) -> Ledger:
    """The promises of one test on that server."""
    return Ledger(stormy)


def assert_others_go_on(http: httpx.Client) -> None:
    """Another run starts and ends, and the API answers."""
    waited = http.post("/runs/wait", json={"assistant_id": "echo", "input": {"text": "x"}})
    assert waited.json()["trail"] == ["x"]
    assert http.get("/ok").json()["ok"] is True


@pytest.mark.parametrize(
    ("graph", "kind", "told"),
    [
        ("hostile_loop", "spin", "graph blocks its thread, breaking in"),
        ("hostile_loop", "sleep", "graph blocks its thread, run ended without it"),
        ("hostile_thread", "spin", "a node works on after its run has ended, breaking in"),
        ("hostile_thread", "sleep", "a node works on after its run has ended, breaking in"),
        ("endless", "", None),
    ],
)
def test_code_that_never_ends_times_out(
    stormy: Deployment,
    http: httpx.Client,
    ledger: Ledger,
    scenario: Callable[[int, str], Scenario],
    tmp_path: Path,
    *,
    graph: str,
    kind: str,
    told: str | None,
) -> None:
    """The run's status says so, whether its code hears the wish to stop or not."""
    one = scenario(14, f"never ends: {graph} {kind}")
    before = stormy.count_log(told) if told else 0
    asked = {"kind": kind, "path": str(tmp_path / "ended")}
    run = ledger.accept(start(http, new_thread(http), graph, input=asked))
    until(lambda: get(http, run)["status"] == "running")
    assert_others_go_on(http)
    with one.recovery():
        until(lambda: get(http, run)["status"] == "timeout", 60)
    assert_others_go_on(http)
    if told:
        until(lambda: stormy.count_log(told) > before)
        lines = [line for line in stormy.log.read_text().splitlines() if told in line]
        assert any(run["run_id"] in line for line in lines)
    if graph == "hostile_thread" and kind == "spin":
        until((tmp_path / "ended").exists)
    ledger.check()
    one.runs, one.lost, one.doubled = 3, len(ledger.lost()), len(ledger.doubled())


def test_a_run_that_blocks_is_cancelled_within_seconds(
    stormy: Deployment, http: httpx.Client, ledger: Ledger, tmp_path: Path
) -> None:
    """The wish to cancel is honoured though the code cannot hear it, and its stream ends."""
    body = {
        "assistant_id": "hostile_loop",
        "input": {"kind": "spin", "path": str(tmp_path / "begun")},
    }
    path = f"/threads/{new_thread(http)}/runs/stream"
    with http.stream("POST", path, json=body) as response, stormy.client() as own:
        until((tmp_path / "begun").exists)
        run = response.headers["content-location"]
        assert own.post(f"{run}/cancel").status_code == 202
        list(events_of(response))
        assert own.get(run).json()["status"] == "interrupted"
    assert_others_go_on(http)
    ledger.check()


def test_a_graph_that_refuses_to_be_closed_loses_its_run(
    stormy: Deployment, http: httpx.Client, ledger: Ledger, tmp_path: Path
) -> None:
    """A factory that swallows every request to stop: its run ends without it, the log says so."""
    gate = tmp_path / "gate"
    run = ledger.accept(
        start(
            http,
            new_thread(http),
            "stubborn",
            input={"kind": "fine"},
            config={"configurable": {"path": str(gate)}},
        )
    )
    until(lambda: get(http, run)["status"] == "timeout", 60)
    lines = stormy.log.read_text().splitlines()
    told = [line for line in lines if "graph does not stop, run ended without it" in line]
    assert any(run["run_id"] in line for line in told)
    assert_others_go_on(http)
    gate.touch()
    ledger.check()


@pytest.mark.parametrize(
    ("graph", "kind", "error"),
    [
        ("broken_factory", "", "RuntimeError"),
        ("hostile_loop", "reducer", "RuntimeError"),
        ("hostile", "exit", "SystemExit"),
        ("hostile", "unserialisable", "TypeError"),
    ],
)
def test_code_that_raises_ends_its_run_as_an_error(
    stormy: Deployment,
    http: httpx.Client,
    ledger: Ledger,
    scenario: Callable[[int, str], Scenario],
    *,
    graph: str,
    kind: str,
    error: str,
) -> None:
    """In a factory, a reducer, a node, or where the state is saved."""
    one = scenario(14, f"raises: {graph} {kind}")
    run = ledger.accept(start(http, new_thread(http), graph, input={"kind": kind}))
    assert join(http, run)["__error__"]["error"] == error
    assert get(http, run)["status"] == "error"
    assert run["run_id"] in stormy.log.read_text()
    assert_others_go_on(http)
    ledger.check()
    one.runs, one.lost, one.doubled = 2, len(ledger.lost()), len(ledger.doubled())


def test_ten_thousand_threads_do_no_harm(
    http: httpx.Client, ledger: Ledger, scenario: Callable[[int, str], Scenario]
) -> None:
    """Other runs go on meanwhile; the run itself ends as the machine allows."""
    one = scenario(14, "ten thousand threads")
    run = ledger.accept(start(http, new_thread(http), "hostile_loop", input={"kind": "threads"}))
    assert_others_go_on(http)
    until(lambda: get(http, run)["status"] in {"success", "error", "timeout"}, 60)
    assert_others_go_on(http)
    ledger.check()
    one.runs = 3


@pytest.mark.parametrize("kind", ["segfault", "kill"])
def test_code_that_crashes_the_process_ends_as_an_error(
    stormy: Deployment,
    http: httpx.Client,
    ledger: Ledger,
    scenario: Callable[[int, str], Scenario],
    *,
    kind: str,
) -> None:
    """The worker comes back each time, and the third loss is the run's last."""
    one = scenario(14, f"crashes its process: {kind}")
    with one.recovery():
        run = ledger.accept(start(http, new_thread(http), "hostile_loop", input={"kind": kind}))
        answer: Any = join(http, run)
    assert answer["__error__"]["error"] == "WorkerLost"
    assert run["run_id"] in stormy.log.read_text()
    assert_others_go_on(http)
    ledger.check()
    one.runs, one.kills = 2, 3
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def test_code_that_holds_the_interpreter_loses_its_process(
    deployment: Deployment, scenario: Callable[[int, str], Scenario], *, is_full: bool
) -> None:
    """C code that never lets another thread run: the process ends with a traceback."""
    if not is_full:
        pytest.skip("takes minutes: three processes are given thirty seconds each to come back")
    one = scenario(14, "holds the interpreter for ever")
    ledger = Ledger(deployment)
    deployment.start_web()
    deployment.start_supervised_worker()
    deployment.start_supervised_worker()
    with deployment.client() as http, one.recovery():
        run = ledger.accept(start(http, new_thread(http), "hostile_loop", input={"kind": "freeze"}))
        until(lambda: get(http, run)["status"] == "error", 300)
        assert_others_go_on(http)
    # Python's own words: thirty seconds, and one beat more.
    assert "Timeout (0:00:3" in deployment.log.read_text()
    ledger.check()
    one.runs, one.kills = 2, 3
