"""Which process does what: seen from outside, on the real ones."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from deployment import Deployment, new_thread, until


def test_the_web_process_imports_no_user_code(deployment: Deployment, tmp_path: Path) -> None:
    """Users' modules are imported by the graphs process and the worker, by nobody else."""
    seen = tmp_path / "pids"
    deployment.settings["TEST_IMPORTS"] = str(seen)
    url = deployment.start_web()
    worker = deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        body = {"assistant_id": "echo", "input": {"text": "x"}}
        assert http.post(f"/threads/{thread_id}/runs/wait", json=body).json()["trail"] == ["x"]
        assert http.get(f"/threads/{thread_id}/state").json()["values"]["trail"] == ["x"]
        assert http.get("/assistants/echo/graph").status_code == 200
    importers = {int(line) for line in seen.read_text().split()}
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in importers}
    assert importers >= {worker.pid}
    assert len(importers) == 2
    assert all(b"gunicorn" not in command for command in commands.values())
    assert url


def test_the_application_loads_without_langgraph() -> None:
    """What the web process imports holds neither the graph library nor the workers."""
    code = (
        "import sys, greenroom.application\n"
        "heads = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(heads & {'langgraph', 'langchain_core', 'greenroom_workers', 'uvicorn'}))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert done.stdout.strip() == "[]"


def test_an_idle_graphs_process_sleeps(deployment: Deployment) -> None:
    """Nothing in it looks around by itself: it wakes for a call, and not ten times a second."""
    url = deployment.start_web()
    with deployment.client() as http:
        assert http.get("/assistants/echo/graph").status_code == 200
    (graphs,) = [
        child
        for child in psutil.Process(deployment.webs[url].pid).children(recursive=True)
        if "graphs" in child.cmdline()
    ]

    def count_wakeups() -> int:
        tasks = Path(f"/proc/{graphs.pid}/task").iterdir()
        lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))

    def is_asleep() -> bool:
        before = count_wakeups()
        # What does not happen is told by no event.
        time.sleep(2)
        return count_wakeups() - before < 10

    until(is_asleep)
