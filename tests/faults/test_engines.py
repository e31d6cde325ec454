"""Redis and Postgres that forget, restart, starve or stay away."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import psycopg
import redis
from deployment import Deployment, get, join, new_thread, start, streaming, until
from killing import suspend
from ledger import Ledger
from proxy import Proxy
from report import Scenario
from sqlalchemy import text

from greenroom.queue import life
from greenroom.signals.bell import LOOK, QUEUE
from greenroom.signals.keys import Keys

Make = Callable[[int, str], Scenario]
STEPS = {"n": 5, "seconds": 0.2}
CUT = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


def alter(deployment: Deployment, statement: str) -> None:
    """Change a setting of the database, also while it is read-only."""
    off = "-c default_transaction_read_only=off"
    with psycopg.connect(deployment.postgres.uri, autocommit=True, options=off) as connection:
        connection.execute(statement)


def settle(one: Scenario, ledger: Ledger) -> None:
    """Hold a scenario to its promises, and fill its line."""
    ledger.check()
    one.runs = len(ledger.runs)
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())


def start_steps(http: httpx.Client, ledger: Ledger) -> dict[str, Any]:
    """A run of five steps on a thread of its own."""
    return ledger.accept(start(http, new_thread(http), "steps", input=STEPS), steps=5)


def timed(work: Callable[[], object]) -> float:
    """The seconds that something took."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def echo(http: httpx.Client, seconds: float = 30) -> None:
    """Create a run and wait for it, as often as it takes a careful client."""

    def answered() -> bool:
        body = {"assistant_id": "echo", "input": {"text": "x"}}
        answer = http.post("/runs/wait", json=body)
        if answer.status_code == 503:
            assert answer.headers["retry-after"]
            return False
        assert answer.json()["trail"] == ["x"], answer.text
        return True

    until(answered, seconds)


def batch_seconds(http: httpx.Client, runs: int = 30) -> float:
    """How long a number of short runs takes, ten at a time."""
    began = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: echo(http), range(runs)))
    return time.monotonic() - began


@contextmanager
def reading(
    http: httpx.Client, ledger: Ledger, runs: int, **given: Any
) -> Iterator[list[dict[str, Any]]]:
    """Start resumable runs, and read each to its end while the block does its worst."""
    body = {"input": {**STEPS, **given}, "stream_mode": "custom", "stream_resumable": True}
    made = [
        ledger.accept(start(http, new_thread(http), "steps", **body), steps=5) for _ in range(runs)
    ]
    with ThreadPoolExecutor(runs) as pool:
        reads = [pool.submit(ledger.read, http, run) for run in made]
        until(lambda: any(get(http, run)["status"] == "running" for run in made))
        yield made
        readings = [read.result() for read in reads]
    assert all("error" not in reading.names for reading in readings)
    assert all(set(reading.steps) == set(range(5)) for reading in readings)
    assert {get(http, run)["status"] for run in made} == {"success"}


def test_flushall_loses_no_run(deployment: Deployment, ledger: Ledger, scenario: Make) -> None:
    """Redis holds nothing that must last: queued and running runs end all the same."""
    one = scenario(6, "FLUSHALL, twice")
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        runs = [start_steps(http, ledger) for _ in range(15)]
        client = redis.Redis.from_url(deployment.redis.uri)
        client.flushall()
        runs += [start_steps(http, ledger) for _ in range(5)]
        client.flushall()
        one.kills = 2
        client.close()
        assert [join(http, run)["trail"] for run in runs] == [[0, 1, 2, 3, 4]] * 20
        assert {get(http, run)["status"] for run in runs} == {"success"}
        settle(one, ledger)


def test_a_redis_restart_loses_no_run_and_ends_every_stream(
    deployment: Deployment, ledger: Ledger, scenario: Make, is_full: bool
) -> None:
    """While Redis is away runs are created, waited for and streamed from Postgres alone."""
    one = scenario(6, "Redis away, then restarted")
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        body = {
            "assistant_id": "steps",
            "input": STEPS,
            "stream_mode": "custom",
            "stream_resumable": True,
        }
        steps = []
        with streaming(http, f"/threads/{thread_id}/runs/stream", body) as events:
            for name, data, _ in events:
                if name == "custom":
                    steps.append(data["step"])
                if steps == [0, 1]:
                    deployment.redis.__exit__(None, None, None)
        one.kills += 1
        assert steps == [0, 1, 2, 3, 4]
        health = http.get("/ok?check_db=1").json()
        assert health == {
            "ok": True,
            "services": {"postgres": "ok", "redis": "down"},
            "degraded": True,
        }
        back = time.monotonic() + (60 if is_full else 1)
        while time.monotonic() < back:
            echo(http)
            start_steps(http, ledger)
        deployment.redis.__enter__()
        with one.recovery():
            until(lambda: http.get("/ok?check_db=1").json()["services"]["redis"] == "ok")
            echo(http)
        settle(one, ledger)


def test_bells_may_come_twice_or_never_or_in_any_order(
    deployment: Deployment, ledger: Ledger, scenario: Make, is_full: bool
) -> None:
    """Each run ends once, whatever became of the bell that was rung for it."""
    one = scenario(6, "duplicate, lost and reordered bells")
    deployment.start_web()
    for _ in range(2):
        deployment.start_worker()
    client = redis.Redis.from_url(deployment.redis.uri)
    bells = f"{Keys('', deployment.value('SELECT deployment_id FROM deployment')).bell}:{QUEUE}"
    dice = random.Random(6)
    with deployment.client() as http:
        for _ in range(200 if is_full else 40):
            body = {"input": {"n": 2, "seconds": 0.01}}
            ledger.accept(start(http, new_thread(http), "steps", **body), steps=2)
            match dice.choice(["lose", "double", "turn", "leave"]):
                case "lose":
                    client.delete(bells)
                case "double":
                    client.rpush(bells, LOOK, LOOK)
                case "turn":
                    client.lmove(bells, bells, "LEFT", "RIGHT")
            one.kills += 1
        settle(one, ledger)
    client.close()
    assert deployment.value("SELECT max(attempt) FROM run") == 1


def test_a_redis_without_memory_costs_no_run(
    deployment: Deployment, ledger: Ledger, scenario: Make
) -> None:
    """Nothing can be written to Redis: runs start by sweeps, cancels arrive by the renewal."""
    one = scenario(6, "Redis out of memory")
    deployment.start_web()
    deployment.start_worker()
    client = redis.Redis.from_url(deployment.redis.uri)
    with deployment.client() as http, reading(http, ledger, 5):
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        one.kills += 1
        with one.recovery():
            echo(http)
        run = start(http, new_thread(http), "steps", input={"n": 20, "seconds": 0.3})
        until(lambda: get(http, run)["status"] == "running")
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel"
        assert http.post(path).status_code == 202
        until(lambda: get(http, run)["status"] == "interrupted")
        client.config_set("maxmemory", 0)
        with one.recovery():
            echo(http)
    client.close()
    settle(one, ledger)


def test_silently_dead_redis_sockets_slow_things_down_and_no_more(
    deployment: Deployment, ledger: Ledger, scenario: Make, is_full: bool
) -> None:
    """No packet comes through and nobody is told: Postgres carries runs and streams alone."""
    one = scenario(6, "silently dead Redis sockets")
    with Proxy(deployment.redis.uri) as proxy:
        deployment.start_web(REDIS_URI=proxy.uri)
        deployment.start_worker(REDIS_URI=proxy.uri)
        with deployment.client() as http:
            echo(http)
            with reading(http, ledger, 5):
                proxy.partition()
                one.kills += 1
                with one.recovery():
                    echo(http)
                health = http.get("/ok?check_db=1")
                assert health.status_code == 200
                assert health.json()["degraded"] is True
                waits = [timed(lambda: echo(http)) for _ in range(30 if is_full else 4)]
                # A bell that is tried, and a sweep: never the wait of a request for a dead host.
                assert sorted(waits)[len(waits) // 2] < 5
            proxy.heal()
            with one.recovery():
                until(lambda: http.get("/ok?check_db=1").json()["services"]["redis"] == "ok")
                echo(http)
            settle(one, ledger)


def test_after_a_postgres_restart_throughput_is_what_it_was(
    deployment: Deployment, ledger: Ledger, scenario: Make, is_full: bool
) -> None:
    """Requests get 503 or wait, streams stay without an end, workers reconnect by themselves."""
    one = scenario(7, "Postgres restarted")
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        echo(http)
        before = batch_seconds(http)
        with reading(http, ledger, 8):
            deployment.postgres.__exit__(None, None, None)
            one.kills += 1
            health = http.get("/ok?check_db=1")
            assert (health.status_code, health.json()["ok"]) == (503, False)
            refused = http.post("/threads", json={})
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            # Longer than the pools try by themselves to reconnect.
            time.sleep(45 if is_full else 1)
            deployment.postgres.__enter__()
            with one.recovery():
                echo(http)
        until(lambda: batch_seconds(http) < 3 * before + 1)
        settle(one, ledger)


def test_a_postgres_that_cuts_every_connection_is_worked_with_again(
    deployment: Deployment, ledger: Ledger, scenario: Make
) -> None:
    """Runs go on where they were; each thread shows every step once."""
    one = scenario(7, "all backends terminated, twice")
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        with reading(http, ledger, 8):
            for _ in range(2):
                assert deployment.value(CUT) > 3
                one.kills += 1
                with one.recovery():
                    echo(http)
        settle(one, ledger)


def test_a_server_that_turns_read_only_is_left(
    deployment: Deployment, ledger: Ledger, scenario: Make
) -> None:
    """Reads are answered, writes refused for now; once it is healed no session stays read-only."""
    one = scenario(7, "Postgres read-only")
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        with reading(http, ledger, 5) as runs:
            thread_id = new_thread(http)
            alter(deployment, "ALTER DATABASE greenroom SET default_transaction_read_only = on")
            one.kills += 1
            deployment.value(CUT)
            until(lambda: http.get(f"/threads/{thread_id}").status_code == 200)
            refused = http.post("/threads", json={})
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            assert not {get(http, run)["status"] for run in runs} & {"error", "timeout"}
            alter(deployment, "ALTER DATABASE greenroom RESET default_transaction_read_only")
            with one.recovery():
                echo(http)
        settle(one, ledger)


def test_a_slow_postgres_makes_runs_slow_and_nothing_else(
    deployment: Deployment, ledger: Ledger, scenario: Make
) -> None:
    """With 200 ms more for each round trip leases are kept, and no attempt is charged."""
    one = scenario(7, "Postgres 200 ms slower")
    with Proxy(deployment.postgres.uri) as proxy:
        deployment.start_web(DATABASE_URI=proxy.uri)
        deployment.start_worker(DATABASE_URI=proxy.uri)
        with deployment.client() as http:
            before = batch_seconds(http)
            with reading(http, ledger, 6):
                proxy.latency_seconds = 0.1
                one.kills += 1
                echo(http)
            assert deployment.value("SELECT max(attempt) FROM run") == 1
            proxy.heal()
            until(lambda: batch_seconds(http) < 3 * before + 1)
            settle(one, ledger)


def test_an_exhausted_pool_answers_503_and_recovers(
    deployment: Deployment, ledger: Ledger, scenario: Make
) -> None:
    """While every connection waits for a lock, requests are sent away within the time-out."""
    one = scenario(7, "every connection waits for a lock")
    few = {"LANGGRAPH_POSTGRES_POOL_MAX_SIZE": "2", "GREENROOM_DATABASE_TIMEOUT_SECONDS": "2"}
    deployment.start_web(**few)
    deployment.start_worker(**few)

    def create(_: int) -> tuple[int, bool]:
        answer = http.post("/runs", json={"assistant_id": "echo", "input": {"text": "x"}})
        return answer.status_code, "retry-after" in answer.headers

    with deployment.client() as http:
        with reading(http, ledger, 4), ThreadPoolExecutor(16) as pool:
            with deployment.database.transaction() as connection:
                connection.execute(text("LOCK TABLE run IN ACCESS EXCLUSIVE MODE"))
                one.kills += 1
                answers = pool.map(create, range(16))
                assert set(answers) == {(503, True)}
            with one.recovery():
                echo(http)
        settle(one, ledger)


def test_a_web_process_whose_postgres_is_silent_answers_within_its_time_out(
    deployment: Deployment, ledger: Ledger, scenario: Make
) -> None:
    """No request hangs on a connection that neither answers nor ends; afterwards all is well."""
    one = scenario(7, "Postgres silent for the web process")
    with Proxy(deployment.postgres.uri) as proxy:
        deployment.start_web(DATABASE_URI=proxy.uri, GREENROOM_DATABASE_TIMEOUT_SECONDS="2")
        deployment.start_worker()
        with deployment.client() as http:
            with reading(http, ledger, 4), ThreadPoolExecutor(30) as pool:
                proxy.partition()
                one.kills += 1
                began = time.monotonic()
                answers = [
                    pool.submit(http.post, "/threads", json={}, timeout=20) for _ in range(30)
                ]
                assert {answer.result().status_code for answer in answers} == {503}
                # The statement's two seconds and one of grace, five to connect anew, and noise.
                assert time.monotonic() - began < 15
                assert http.get("/ok").status_code == 200
                proxy.heal()
                with one.recovery():
                    echo(http)
            settle(one, ledger)


def test_a_postgres_that_forgets_a_claim_never_takes_two_owners_for_one(
    deployment: Deployment, ledger: Ledger, scenario: Make
) -> None:
    """A claim does not wait for the disk: what a crash takes is claimed anew, by another token."""
    one = scenario(7, "Postgres crashed, a claim forgotten")
    deployment.start_web()
    with deployment.client() as http:
        run = ledger.accept(start(http, new_thread(http), "echo", input={"text": "x"}))
        # Nobody else flushes what nobody waits for.
        suspend(background_writer(deployment))
        before = claim(deployment)
        assert (str(before.run_id), get(http, run)["status"]) == (run["run_id"], "running")
        kill_postgres(deployment)
        one.kills += 1
        deployment.postgres.__enter__()
        until(lambda: http.get("/ok?check_db=1").status_code == 200)
        assert get(http, run)["status"] == "pending"

        after = claim(deployment)
        assert after.run_id == before.run_id
        assert not is_held(deployment, before)
        assert is_held(deployment, after)
        with deployment.database.statement() as connection:
            assert life.release_run(connection, after, is_charged=False)
        deployment.start_worker()
        with one.recovery():
            assert join(http, run)["trail"] == ["x"]
        settle(one, ledger)


def claim(deployment: Deployment) -> life.Lease:
    """Claim the one run that is due, as a worker that always has the same name."""
    with deployment.database.direct() as connection:
        claimed = life.claim_run(connection, "of the test", lease_seconds=3600)
    assert claimed is not None
    assert claimed.is_first
    return claimed.lease


def is_held(deployment: Deployment, lease: life.Lease) -> bool:
    """Whether what the holder of a lease writes would be taken."""
    with deployment.database.statement() as connection:
        return life.find_wish(connection, lease)[0]


def background_writer(deployment: Deployment) -> int:
    """The process of Postgres that flushes what nobody waits for."""
    for process in postgres_processes(deployment):
        if "walwriter" in " ".join(process.cmdline()):
            return process.pid
    raise AssertionError("no walwriter")


def kill_postgres(deployment: Deployment) -> None:
    """SIGKILL Postgres with all its processes: what they had not handed to the system is lost."""
    processes = postgres_processes(deployment)
    for process in processes:
        process.kill()
    deployment.postgres.__exit__(None, None, None)
    psutil.wait_procs(processes, timeout=10)


def postgres_processes(deployment: Deployment) -> list[psutil.Process]:
    """The postmaster, first, and its children."""
    assert deployment.postgres.process is not None
    postmaster = psutil.Process(deployment.postgres.process.pid)
    return [postmaster, *postmaster.children(recursive=True)]
