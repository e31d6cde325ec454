"""Real processes: programs that tests start, watch and end."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEADLINE_SECONDS = 30.0

AGENT = """
import os
from typing import TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict):
    n: int


builder = StateGraph(State)
builder.add_node("add", lambda state: {"n": state["n"] + 1})
builder.add_edge(START, "add")
graph = builder.compile()
print("imported by", os.getpid(), flush=True)
"""


class Program:
    """A running Python program; its output is read line by line."""

    def __init__(self, arguments: list[str], **options: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )
        self.seen: list[str] = []

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def line_with(self, text: str) -> str:
        """Read on until a line holds the text."""
        for line in self.process.stdout:
            self.seen.append(line)
            if text in line:
                return line.strip()
        pytest.fail(f"no line with {text!r} in:\n{''.join(self.seen)}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Read the rest and return the exit code."""
        self.seen += self.process.stdout.readlines()
        return self.process.wait(DEADLINE_SECONDS)

    @property
    def output(self) -> str:
        """What has been read so far."""
        return "".join(self.seen)


@pytest.fixture
def start_program() -> Iterator[Callable[..., Program]]:
    """Start programs; those that still run at the end of the test are killed."""
    programs: list[Program] = []

    def start(*arguments: str | Path, **options: object) -> Program:
        programs.append(Program([str(argument) for argument in arguments], **options))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()
        program.process.stdin.close()
        program.process.stdout.close()


@pytest.fixture
def greenroom() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command to its end, with only the settings that the test gives."""

    def run(*arguments: str | Path, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "greenroom.cli.main", *map(str, arguments)],
            cwd=cwd,
            env=bare_environment() | settings,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    return run


def bare_environment() -> dict[str, str]:
    """Our environment without what points at servers: those are the test's to choose."""
    families = ("DATABASE_", "POSTGRES_", "REDIS_", "GREENROOM_", "PORT", "HOST", "LANGSERVE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(families)}


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment for a program that chooses its servers itself."""
    return bare_environment()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own is closed to whom root becomes."""
    # A server that a test killed may still be putting its files away when the test has ended.
    with tempfile.TemporaryDirectory(prefix="greenroom-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def project(open_path: Path) -> Path:
    """The directory of a project with one graph, which prints a line when it is imported."""
    (open_path / "agent.py").write_text(AGENT)
    (open_path / "langgraph.json").write_text('{"graphs": {"adder": "./agent.py:graph"}}')
    return open_path


@pytest.fixture
def has_gone() -> Callable[[int], bool]:
    """Wait for the end of a process that need not be our child. A zombie has ended."""

    def wait(pid: int) -> bool:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([handle], [], [], DEADLINE_SECONDS)[0])
        finally:
            os.close(handle)

    return wait
