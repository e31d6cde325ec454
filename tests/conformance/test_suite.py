"""The black-box suite of the wire contract, run from beside the checkout where it lies.

Its clients live in an environment of their own, made once below .venv.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from deployment import Deployment, until

from greenroom.cli.engine import free_port

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
SUITE = SHARED / "conformance"

# Parts of the contract that this server does not serve yet.
NOT_SERVED = ("test_mcp.py", "test_a2a.py")

# Enough meaning to tell cats from stocks.
EMBEDDING = """
def embed(texts):
    return [[text.count("cat"), text.count("stock"), 0.1] for text in texts]
"""

pytestmark = pytest.mark.skipif(
    not SUITE.is_dir(), reason="the conformance suite does not lie beside this checkout"
)


@pytest.fixture(scope="module")
def python() -> Path:
    """An interpreter with the suite's own requirements."""
    home = ROOT / ".venv" / "conformance"
    stamp = home / "installed"
    requirements = SUITE / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        venv.create(home, with_pip=True, clear=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", "-r", str(requirements)], check=True)
        stamp.write_text(requirements.read_text())
    return home / "bin" / "python"


@pytest.fixture
def project() -> Iterator[Path]:
    """The suite's own project, with an index for its test of search by meaning."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as name:
        copy = Path(name) / "agents"
        shutil.copytree(SHARED / "agents", copy)
        (copy / "embedding.py").write_text(EMBEDDING)
        file = copy / "langgraph.json"
        settings = json.loads(file.read_text())
        settings["store"] = {"index": {"dims": 3, "embed": "./embedding.py:embed"}}
        file.write_text(json.dumps(settings))
        yield file


@contextmanager
def development_server(directory: Path, project: Path) -> Iterator[str]:
    """`greenroom dev` on the fixture project."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-P", "-m", "greenroom.cli.main", "dev", "-c", str(project)]
    command += ["--port", str(port), "--no-reload", "--data-dir", str(directory / "data")]
    log = directory / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=output)
    try:

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            return b"worker ready" in log.read_bytes() and _answers(url)

        until(is_ready, 60)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def run_suite(python: Path, *urls: str) -> None:
    """Run the suite; its own report is the message of a failure."""
    for url in urls:
        done = subprocess.run(
            [
                *(str(python), "-m", "pytest", "-q", "-n", "4", "-p", "no:cacheprovider"),
                *(f"--ignore={name}" for name in NOT_SERVED),
            ],
            cwd=SUITE,
            env={**os.environ, "BASE_URL": url, "BEYOND": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"{url}: {done.stdout.splitlines()[-1] if done.stdout else done.stderr}")
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
        assert re.search(r"\d{3,} passed", done.stdout), done.stdout[-2_000:]


@pytest.mark.timeout(900)
def test_the_development_server_keeps_the_contract(python: Path, project: Path) -> None:
    """One web and one worker process, with embedded engines."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with development_server(Path(directory), project) as url:
            run_suite(python, url)


@pytest.mark.timeout(900)
def test_several_processes_on_one_database_keep_the_contract(
    python: Path, project: Path, deployment: Deployment
) -> None:
    """Two web processes behind one port, and two workers."""
    deployment.project = project
    deployment.migrate()
    # The defaults: what is quick for fault tests would be a load here.
    for name in ("GREENROOM_LEASE_SECONDS", "GREENROOM_SWEEP_SECONDS"):
        deployment.settings[name] = ""
    deployment.settings["WEB_CONCURRENCY"] = "2"
    url = deployment.start_web()
    deployment.start_worker()
    deployment.start_worker()
    run_suite(python, url)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ok", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
