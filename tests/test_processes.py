"""Which process does what: seen from outside, on the real ones."""

import os
import subprocess
import sys
from pathlib import Path

from deployment import Deployment, new_thread


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
