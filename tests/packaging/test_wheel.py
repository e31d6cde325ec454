"""The wheel alone, in an empty environment outside the checkout, migrates and serves."""

import os
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import httpx
from deployment import Deployment, until

from greenroom.cli.engine import free_port

ROOT = Path(__file__).parents[2]


def test_the_wheel_migrates_serves_and_works(deployment: Deployment, tmp_path: Path) -> None:
    """SQL files, migrations and assets travel along: nothing is read from the checkout."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index"),
            *("--wheel-dir", str(tmp_path), str(ROOT)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("greenroom-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(install, check=True)
    # The dependencies of this test's own environment, behind the wheel: a plain path line does not
    # run the editable install of the checkout that lies there too.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / "venv" / "lib" / version / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = subprocess.run(
        [str(python), "-P", "-c", "import greenroom; print(greenroom.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert where.stdout.strip().startswith(str(tmp_path))
    with deployment.database.statement() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    greenroom = str(tmp_path / "venv" / "bin" / "greenroom")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    environment |= deployment.environment(PORT=str(free_port()))
    subprocess.run([greenroom, "migrate"], check=True, cwd=tmp_path, env=environment)
    processes = [
        subprocess.Popen([greenroom, kind], cwd=tmp_path, env=environment)
        for kind in ("web", "worker")
    ]
    try:
        url = f"http://127.0.0.1:{environment['PORT']}"
        until(lambda: _answers(url))
        body = {"assistant_id": "echo", "input": {"text": "from the wheel"}}
        waited = httpx.post(f"{url}/runs/wait", json=body, timeout=60)
        assert waited.json()["trail"] == ["from the wheel"]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(timeout=30) for process in processes] == [0, 0]


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ok", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
