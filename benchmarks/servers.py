"""Starting and stopping what is measured: Greenroom, its peers, and the floor below them all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import perf_counter
from typing import ClassVar

from benchmarks import peers
from benchmarks.counters import Counters
from benchmarks.loop import Figures
from benchmarks.processes import Processes
from benchmarks.sizes import Sizes
from greenroom.cli.embedded import EmbeddedPostgres, EmbeddedRedis
from greenroom.cli.engine import LOOPBACK, free_port
from greenroom.cli.processes import spawn
from greenroom.config import DATABASE_NAMES, REDIS_NAMES

GRAPHS = Path(__file__).resolve().parent / "graphs"
START_SECONDS = 120.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.01


class Server(ABC):
    """One of the compared, with data of its own below `folder`; stopped and started at will."""

    name: ClassVar[str]
    share: ClassVar[float] = 1.0
    """Of the sizes: see `Sizes.scaled`."""
    has_slots: ClassVar[bool] = True
    """Whether the number of runs at once can be chosen; else it has its default."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(GRAPHS, self.project, ignore=ignored)
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.has_data = False
        """Whether it has been started before."""
        self.start_seconds = 0.0
        """From nothing at all to the first answer, engines included."""
        self.engines = ExitStack()
        self.counters = Counters(None, None)
        self.processes = Processes([])

    @abstractmethod
    def launch(self, slots: int | None) -> Sequence[int]:
        """Start it and wait until it is there; the processes on top of what belongs to it.

        `slots`: runs at once; None takes its default.
        """

    def start(self, slots: int | None = None) -> None:
        """Start it on the data that it left behind. `slots`: None takes its default."""
        begin = perf_counter()
        pids = self.launch(slots if self.has_slots else None)
        self.start_seconds = perf_counter() - begin
        self.processes = Processes(pids)
        self.has_data = True

    @property
    def is_up(self) -> bool:
        """Whether it was started, and not stopped."""
        return self.process is not None

    def stop(self) -> None:
        """Stop it with all that belongs to it; harmless when it is stopped."""
        self.counters.close()
        self.counters = Counters(None, None)
        started = list(self.processes)
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        self.engines.close()
        for process in started:
            # psutil knows a process by its time of birth, too: never another with its number.
            if process.is_running():
                process.kill()
        self.processes = Processes([])

    def spawn(self, argv: Sequence[str | Path], environment: Mapping[str, str]) -> int:
        """Start the main process; it ends with us."""
        names = {*DATABASE_NAMES, *REDIS_NAMES}
        inherited = {name: value for name, value in os.environ.items() if name not in names}
        quiet = {"LOG_LEVEL": "WARNING", "LANGSMITH_TRACING": "false"}
        with self.log.open("ab") as log:
            self.process = spawn(
                argv,
                death_signal=signal.SIGTERM,
                environment={**inherited, **quiet, **environment},
                directory=self.project,
                output=log,
            )
        return self.process.pid

    def fail(self, why: str) -> SystemExit:
        """Make the error that ends everything, with the last words of the server."""
        words = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
        return SystemExit(f"{self.name} {why}\n{words}")


class HttpServer(Server):
    """One that is asked by HTTP."""

    ok_path: ClassVar[str] = "/ok"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()

    def await_ok(self) -> None:
        """Wait for the first good answer."""
        give_up = perf_counter() + START_SECONDS
        while not self.is_ok():
            if self.process is None or self.process.poll() is not None:
                raise self.fail("ended while it started")
            if perf_counter() > give_up:
                raise self.fail(f"does not answer after {START_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)

    def is_ok(self) -> bool:
        """Ask once."""
        connection = HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request("GET", self.ok_path)
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


class Greenroom(HttpServer):
    """`greenroom dev` as it comes: web, graphs and worker processes, Postgres and Valkey."""

    name = "greenroom"

    def settings(self) -> Mapping[str, str]:
        """What is not left at its default."""
        return {}

    def launch(self, slots: int | None) -> Sequence[int]:
        """Start everything with one command."""
        data = self.folder / "data"
        argv: list[str | Path] = [sys.executable, "-P", "-m", "greenroom.cli.main", "dev"]
        argv += ["--no-reload", "--port", str(self.port), "--data-dir", data]
        argv += ["-c", self.project / "langgraph.json"]
        if slots:
            argv += ["--n-jobs-per-worker", str(slots)]
        pid = self.spawn(argv, self.settings())
        self.await_ok()
        self.counters = Counters(
            engine_uri(data, "postgres", "postgresql://greenroom", "/greenroom"),
            engine_uri(data, "redis", "redis://", "/0"),
        )
        return [pid]


class Encrypted(Greenroom):
    """The same with a key: its figures beside ours are what encryption costs."""

    name = "encrypted"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.key = os.urandom(16).hex()

    def settings(self) -> Mapping[str, str]:
        """See the base class."""
        return {"LANGGRAPH_AES_KEY": self.key}


class Reference(HttpServer):
    """The in-memory server, a black box."""

    name = "reference"
    share = 0.5
    has_slots = False

    def launch(self, slots: int | None) -> Sequence[int]:
        """Start it as its command line does, with its ten jobs; blocking nodes are allowed."""
        programs = peers.install(self.name, peers.REFERENCE, sys.executable)
        argv: list[str | Path] = [programs / "langgraph", "dev", "--no-browser", "--no-reload"]
        argv += ["--allow-blocking", "--n-jobs-per-worker", "10"]
        argv += ["--host", LOOPBACK, "--port", str(self.port)]
        pid = self.spawn(argv, {"LANGGRAPH_CLI_NO_ANALYTICS": "1"})
        self.await_ok()
        return [pid]


class Aegra(HttpServer):
    """Aegra in its Redis mode, on engines like ours."""

    name = "aegra"
    share = 0.2
    ok_path = "/live"

    def launch(self, slots: int | None) -> Sequence[int]:
        """Start the engines, then the server."""
        python = peers.find_aegra_python()
        if python is None:
            raise SystemExit("Aegra needs Python {}.{}".format(*peers.AEGRA_PYTHON))
        programs = peers.install(self.name, peers.AEGRA, python)
        data = self.folder / "data"
        postgres = self.engines.enter_context(EmbeddedPostgres(data))
        redis = self.engines.enter_context(EmbeddedRedis(data))
        assert postgres.process
        assert redis.process
        environment = {
            "DATABASE_URL": postgres.uri,
            "REDIS_URL": redis.uri,
            "REDIS_BROKER_ENABLED": "true",
        }
        if slots:
            environment |= {"WORKER_COUNT": "1", "N_JOBS_PER_WORKER": str(slots)}
        argv: list[str | Path] = [programs / "aegra", "serve", "-c", "langgraph.json"]
        argv += ["--host", LOOPBACK, "--port", str(self.port)]
        pid = self.spawn(argv, environment)
        self.await_ok()
        self.counters = Counters(postgres.uri, redis.uri)
        return [pid, postgres.process.pid, redis.process.pid]


class Floor(Server):
    """No server: the same graphs in one process, with langgraph's own Postgres saver."""

    name = "floor"
    has_slots = False

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        super().__init__(folder)
        self.sizes = sizes

    def launch(self, slots: int | None) -> Sequence[int]:
        """Start a Postgres, then a process that awaits the names of scenarios."""
        postgres = self.engines.enter_context(EmbeddedPostgres(self.folder / "data"))
        assert postgres.process
        self.counters = Counters(postgres.uri, None)
        settings = {
            "database_uri": postgres.uri,
            "postgres_pid": postgres.process.pid,
            "graphs": str(self.project),
            "sizes": asdict(self.sizes),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.floor"],
                cwd=GRAPHS.parents[1],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.ask(json.dumps(settings))
        return [self.process.pid, postgres.process.pid]

    def ask(self, line: str) -> Figures:
        """Say a line to the process: the settings at first, then names of scenarios."""
        assert self.process
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise self.fail(f"ended at {line[:40]!r}")
        figures: Figures = json.loads(answer)
        return figures


class Bare(HttpServer):
    """gunicorn and gevent around a line of WSGI: what a request takes before it is one of ours."""

    name = "bare"

    def launch(self, slots: int | None) -> Sequence[int]:
        """Start one worker."""
        argv: list[str | Path] = [sys.executable, "-m", "gunicorn", "--worker-class", "gevent"]
        argv += ["--chdir", GRAPHS.parents[1], "--bind", f"{LOOPBACK}:{self.port}"]
        pid = self.spawn([*argv, "benchmarks.bare:answer"], {})
        self.await_ok()
        return [pid]


def engine_uri(data: Path, engine: str, head: str, tail: str) -> str:
    """Where an engine of `greenroom dev` is, from what it keeps beside its data."""
    kept = json.loads((data / f"{engine}.json").read_text())
    user = f"{head}:{kept['password']}"
    return f"{user}@{LOOPBACK}:{kept['port']}{tail}"
