"""The peers, in throw-away environments below `.bench/`, from wherever pip installs here."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HOME = Path(__file__).resolve().parents[1] / ".bench"
SHARED = (
    "langgraph",
    "langgraph-checkpoint",
    "langgraph-checkpoint-postgres",
    "langgraph-prebuilt",
    "langgraph-sdk",
)
"""A peer runs what we run: what differs is the server alone."""
REFERENCE = ("langgraph-cli[inmem]",)
AEGRA = ("aegra-cli==0.11.0", "aegra-api==0.11.0")
AEGRA_PYTHON = (3, 12)


def install(name: str, packages: tuple[str, ...], python: str) -> Path:
    """Make the peer's environment, unless it is there.

    Returns:
        The directory of its programs.
    Raises:
        SystemExit: pip failed; the half-made environment is gone.
    """
    directory = HOME / name
    programs = directory / "bin"
    wanted = [*packages, *(f"{package}=={version(package)}" for package in SHARED)]
    stamp = directory / "installed"
    if stamp.exists() and stamp.read_text().split() == wanted:
        return programs
    print(f"installing {name} into {directory}", file=sys.stderr, flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    commands = (
        [python, "-m", "venv", str(directory)],
        [str(programs / "python"), "-m", "pip", "install", "-qq", *wanted],
    )
    for command in commands:
        if subprocess.run(command, check=False).returncode:
            shutil.rmtree(directory, ignore_errors=True)
            raise SystemExit(f"{name} cannot be installed: {' '.join(command)} failed")
    stamp.write_text("\n".join(wanted))
    return programs


def find_aegra_python() -> str | None:
    """Look for the Python that Aegra 0.11 needs: on the path, then where pyenv keeps its own."""
    name = "python{}.{}".format(*AEGRA_PYTHON)
    versions = Path.home() / ".pyenv/versions"
    pattern = "{}.{}.*/bin/python".format(*AEGRA_PYTHON)
    candidates = [shutil.which(name), *map(str, sorted(versions.glob(pattern), reverse=True))]
    return next((python for python in candidates if python and answers(python)), None)


def answers(python: str) -> bool:
    """Tell whether an interpreter starts: pyenv has names for more than it will run."""
    check = f"import sys, venv; sys.exit(sys.version_info[:2] != {AEGRA_PYTHON})"
    return not subprocess.run(
        [python, "-c", check], check=False, stderr=subprocess.DEVNULL
    ).returncode
