"""`greenroom dev` and `greenroom web` as a whole: they start, reload, and leave nobody behind."""

import http.client
import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest
from deployment import until

from greenroom.cli.embedded import EmbeddedPostgres, EmbeddedRedis
from greenroom.cli.engine import free_port

MODULE = ("-m", "greenroom.cli.main")


@pytest.fixture
def dev(start_program, environment, project):
    """`greenroom dev` on the project, ready to answer."""
    port = free_port()
    program = start_program(
        *MODULE, "dev", "--port", str(port), cwd=project, env=environment | {"LOG_LEVEL": "INFO"}
    )
    program.port = port
    program.line_with(f"ready at http://127.0.0.1:{port}")
    return program


@pytest.fixture
def pair_of_workers(start_program, environment, project):
    """`greenroom dev` without reloads, all slots offered, and the id of its second worker."""
    port = free_port()
    argv = (*MODULE, "dev", "--no-reload", "--port", str(port), "--n-jobs-per-worker", "5")
    # Nobody reads on: with two lines for each run the pipe would fill, and the worker wait for it.
    program = start_program(*argv, cwd=project, env=environment | {"LOG_LEVEL": "WARNING"})
    program.port = port
    program.line_with(f"ready at http://127.0.0.1:{port}")
    until(lambda: slots(port) == 5)
    return program, children_of(program.pid)["worker-2"]


def family_of(pid: int) -> list[int]:
    """The ids of all processes below one."""
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listing.splitlines())}
    children = [child for child, parent in parents.items() if parent == pid]
    return children + [below for child in children for below in family_of(child)]


def children_of(pid: int) -> dict[str, int]:
    """The ids of a process's own children, by their names."""
    argv = ["ps", "--ppid", str(pid), "-o", "comm=,pid="]
    listing = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return {name: int(child) for name, child in map(str.split, listing.splitlines())}


def get(port: int, path: str) -> int:
    """The status of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def post(port: int, path: str, body: object) -> None:
    """Send what must be accepted."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def slots(port: int) -> float:
    """What all workers offer, by /metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(float(line.split()[-1]) for line in lines if line.startswith("lg_api_workers_max"))


def thread_count(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_dev_answers_and_shows_a_request_to_paste(dev):
    """Once ready, the API answers; the curl command names the project's first graph."""
    assert get(dev.port, "/ok") == 200
    dev.line_with("Try it")
    curl = dev.line_with("curl -N").rstrip("\\") + dev.line_with("-H").rstrip("\\")
    arguments = shlex.split(curl + dev.line_with("-d"))
    assert json.loads(arguments[-1])["assistant_id"] == "adder"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_signal_leaves_a_process_behind(dev, has_gone, number):
    """Ctrl-C, SIGTERM and SIGKILL of `dev` end web, graphs, worker, Postgres and Valkey."""
    family = family_of(dev.pid)
    assert len(family) > 5
    os.killpg(dev.pid, number)

    assert all(has_gone(pid) for pid in family)
    assert dev.process.wait() == (-signal.SIGKILL if number == signal.SIGKILL else 0)


def test_dev_starts_again_right_after_a_kill(dev, start_program, environment, project):
    """SIGKILL and the same command again: same port, same data, no manual step."""
    dev.signal(signal.SIGKILL)
    dev.process.wait()
    again = start_program(*MODULE, "dev", "--port", str(dev.port), cwd=project, env=environment)
    again.line_with("ready at")
    assert get(dev.port, "/ok") == 200


def test_a_second_dev_on_the_directory_is_refused(dev, greenroom, project):
    """Two on one directory: one line that names the holder and the remedy."""
    result = greenroom("dev", "--port", str(free_port()), cwd=project)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert f"in use by process {dev.pid}" in result.stderr


def test_a_change_of_the_project_reloads_user_code(dev, project):
    """A saved file is imported by a new process; the web process stays."""
    dev.line_with("imported by")
    (project / "agent.py").write_text(
        (project / "agent.py").read_text() + "\nprint('second version', flush=True)"
    )
    dev.line_with("reloading")
    dev.line_with("second version")
    assert "Shutting down: Master" not in dev.output
    assert get(dev.port, "/ok") == 200


def test_without_reloads_nobody_stands_between(start_program, environment, project, has_gone):
    """Graphs process and worker are `dev`'s own: started anew when they die, and gone with it."""
    port = free_port()
    argv = (*MODULE, "dev", "--no-reload", "--port", str(port))
    dev = start_program(*argv, cwd=project, env=environment | {"LOG_LEVEL": "INFO"})
    dev.line_with("worker ready")
    own = children_of(dev.pid)
    assert "nursery" not in own
    for name in ("graphs", "worker"):
        os.kill(own[name], signal.SIGKILL)
    dev.line_with("child died")
    dev.line_with("worker ready")
    family = family_of(dev.pid)
    assert not {own["graphs"], own["worker"]} & set(family)
    dev.signal(signal.SIGKILL)
    assert all(has_gone(pid) for pid in family)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has no use for two processes")
def test_a_second_worker_sleeps_until_it_is_called(pair_of_workers):
    """It has one thread, offers nothing, and ends with the others."""
    pair, second = pair_of_workers
    assert thread_count(second) == 1
    pair.signal(signal.SIGTERM)
    assert pair.wait() == 0


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has no use for two processes")
def test_a_second_worker_is_called_when_runs_wait(pair_of_workers):
    """From then on it offers its share of the slots, which are no more than before."""
    pair, second = pair_of_workers

    def is_called_after_more_runs() -> bool:
        post(pair.port, "/runs/batch", [{"assistant_id": "adder", "input": {"n": 1}}] * 500)
        return thread_count(second) > 1

    until(is_called_after_more_runs)
    until(lambda: slots(pair.port) == 5)
    pair.signal(signal.SIGTERM)
    assert pair.wait() == 0


def test_workers_leave_the_cores_to_requests(dev):
    """They have a lower priority than the web process, in the eyes of every kind of scheduler."""
    dev.line_with("worker ready")
    nursery = children_of(dev.pid)["nursery"]
    worker = children_of(nursery)["worker"]
    web = children_of(dev.pid)["web"]
    assert os.getpriority(os.PRIO_PROCESS, worker) == 10
    assert os.getpriority(os.PRIO_PROCESS, web) == 0
    assert os.sched_getscheduler(worker) == os.SCHED_BATCH
    group = Path(f"/proc/{worker}/autogroup")
    assert not group.exists() or group.read_text().split()[-1] == "10"


def test_a_broken_langgraph_json_is_not_reloaded(dev, project):
    """What cannot be read is told, and what runs goes on; the mended file is taken."""
    good = (project / "langgraph.json").read_text()
    (project / "langgraph.json").write_text("{")
    assert "cannot be read" in dev.line_with("not reloaded")
    assert get(dev.port, "/ok") == 200
    (project / "langgraph.json").write_text(good)
    dev.line_with("reloading")
    dev.line_with("Listening at")


def test_web_ends_in_order(start_program, environment, project, has_gone, greenroom):
    """`greenroom web` serves, and at SIGTERM gunicorn ends before the graphs process."""
    port = free_port()
    with EmbeddedPostgres(project / "data") as postgres, EmbeddedRedis(project / "data") as valkey:
        settings = {"DATABASE_URI": postgres.uri, "REDIS_URI": valkey.uri, "PORT": str(port)}
        assert greenroom("migrate", cwd=project, **settings).returncode == 0
        debug = {"LOG_LEVEL": "DEBUG"}
        web = start_program(*MODULE, "web", cwd=project, env=environment | settings | debug)
        web.line_with("Booting worker")
        family = family_of(web.pid)
        web.signal(signal.SIGTERM)
        assert web.wait() == 0

    assert re.findall(r"child ended .* child=(\w+)", web.output) == ["web", "graphs"]
    assert all(has_gone(pid) for pid in family)


def test_idle_connections_do_not_delay_the_end(dev):
    """A client's kept-alive connection is closed at the stop, not waited for."""
    connection = http.client.HTTPConnection("127.0.0.1", dev.port, timeout=30)
    connection.request("GET", "/ok")
    connection.getresponse().read()
    dev.signal(signal.SIGTERM)

    assert connection.sock.recv(1) == b""
    assert dev.wait() == 0
    assert "graceful timeout" not in dev.output


def test_a_schema_is_migrated_again_only_when_its_mark_is_another(
    start_program, environment, project
):
    """The first start migrates and leaves a mark; the next one finds it, unless it has changed."""

    def start_once(statement: str) -> str:
        """What a start has said, in whose database this was executed at the end."""
        argv = (*MODULE, "dev", "--no-reload", "--port", str(free_port()))
        program = start_program(*argv, cwd=project, env=environment | {"LOG_LEVEL": "INFO"})
        program.line_with("ready at")
        kept = json.loads((project / ".greenroom/postgres.json").read_text())
        place = f"127.0.0.1:{kept['port']}/greenroom"
        with psycopg.connect(f"postgresql://greenroom:{kept['password']}@{place}") as connection:
            connection.execute(statement)
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
        return program.output

    done = "database is up to date"
    assert done in start_once("SELECT 1")
    assert done not in start_once("COMMENT ON TABLE alembic_version IS 'greenroom of old'")
    assert done in start_once("SELECT 1")
