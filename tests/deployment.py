"""A deployment of real processes for tests: each started, paused and killed by itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from sqlalchemy import text

from greenroom.cli.embedded import EmbeddedPostgres, EmbeddedRedis
from greenroom.cli.engine import free_port
from greenroom.config import Config, load_config
from greenroom.database.engine import Database
from greenroom.database.migrate import migrate

T = TypeVar("T")
PROJECT = Path(__file__).parent / "project" / "langgraph.json"
QUICK = {
    "GREENROOM_LEASE_SECONDS": "2",
    "GREENROOM_SWEEP_SECONDS": "0.3",
    "GREENROOM_WATCHDOG_SECONDS": "0.5",
    "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS": "0",
    # Other tests are no requests that a worker should wait for.
    "GREENROOM_WORKER_NICENESS": "0",
    "LOG_LEVEL": "INFO",
}
"""Faults are healed within the lease: a short one makes quick tests."""


def until(check: Callable[[], T], seconds: float = 30, every: float = 0.05) -> T:
    """Ask again and again until the answer is true; for what no event tells."""
    give_up = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {seconds} s; the last answer was {found!r}")
        time.sleep(every)


class Deployment:
    """Postgres, Redis, one or more web processes and workers on a project."""

    def __init__(self, directory: Path, project: Path = PROJECT, **settings: str) -> None:
        self.directory = directory
        self.project = project
        self.settings = settings
        self.postgres = EmbeddedPostgres(directory / "engines")
        self.redis = EmbeddedRedis(directory / "engines")
        self.webs: dict[str, subprocess.Popen[bytes]] = {}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.log = directory / "processes.log"

    def __enter__(self) -> Self:
        directory = self.directory
        directory.mkdir(parents=True, exist_ok=True)
        self.postgres.__enter__()
        self.redis.__enter__()
        config = self.migrate()
        self.database = Database(config, pool_size=8, application_name="tests")
        return self

    def migrate(self) -> Config:
        """Bring the database up to what the project asks for."""
        config = load_config(self.project, {**self.environment(), "PORT": "2024"})
        migrate(config)
        return config

    def __exit__(self, *_: object) -> None:
        self.database.close()
        for process in [*self.workers, *self.webs.values()]:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in [*self.workers, *self.webs.values()]:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.redis.__exit__(None, None, None)
        self.postgres.__exit__(None, None, None)

    @property
    def url(self) -> str:
        """The address of the first web process."""
        return next(iter(self.webs))

    def client(self, url: str | None = None, token: str | None = None) -> httpx.Client:
        """A raw HTTP client; with a token, of somebody."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=url or self.url, timeout=60, headers=headers)

    def environment(self, **more: str) -> dict[str, str]:
        """What every process is told."""
        return {
            **os.environ,
            **QUICK,
            "DATABASE_URI": self.postgres.uri,
            "REDIS_URI": self.redis.uri,
            "GREENROOM_CONFIG": str(self.project),
            **self.settings,
            **more,
        }

    def restart_web(self, url: str) -> None:
        """Stop a web process as a platform does, and start another on its port."""
        process = self.webs.pop(url)
        process.terminate()
        process.wait(timeout=30)
        self.start_web(int(url.rpartition(":")[2]))

    def start_web(self, port: int | None = None, prefix: str = "", **settings: str) -> str:
        """Start a web process with its graphs process; its URL once it answers, below `prefix`."""
        port = port or free_port()
        url = f"http://127.0.0.1:{port}"
        process = self._spawn("greenroom.cli.main", "web", PORT=str(port), **settings)
        self.webs[url] = process

        def answers() -> bool:
            assert process.poll() is None, self.log.read_text()[-4000:]
            try:
                return httpx.get(f"{url}{prefix}/ok", timeout=5).status_code == 200
            except httpx.HTTPError:
                return False

        until(answers, 60)
        return url

    def run_doomed_web(self, **settings: str) -> int:
        """Start a web process that cannot serve; its exit code."""
        settings = {"PORT": str(free_port()), **settings}
        return self._spawn("greenroom.cli.main", "web", **settings).wait(timeout=60)

    def start_worker(
        self, module: str = "greenroom_workers.process", **settings: str
    ) -> subprocess.Popen[bytes]:
        """Start a worker; returns once it is ready to claim."""
        ready = self.count_log("worker ready")
        process = self._spawn(module, **settings)
        self.workers.append(process)

        def is_ready() -> bool:
            # Looked at before the log: a worker may be ready, meet a run that kills it, be gone.
            has_ended = process.poll() is not None
            if self.count_log("worker ready") > ready:
                return True
            assert not has_ended, self.log.read_text()[-4000:]
            return False

        until(is_ready, 60)
        return process

    def start_supervised_worker(self, **settings: str) -> subprocess.Popen[bytes]:
        """Start `greenroom worker`: its worker is started again when a run takes it down."""
        ready = self.count_log("worker ready")
        process = self._spawn("greenroom.cli.main", "worker", **settings)
        self.workers.append(process)
        until(lambda: self.count_log("worker ready") > ready, 60)
        return process

    def run_doomed_worker(self) -> None:
        """Start a worker that a waiting run kills, perhaps before it calls itself ready."""
        process = self._spawn("greenroom_workers.process")
        self.workers.append(process)
        process.wait(timeout=60)

    def count_log(self, event: str) -> int:
        """How often the processes logged something."""
        return self.log.read_text().count(event) if self.log.exists() else 0

    def _spawn(self, module: str, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                env=self.environment(**settings),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def worker_of(self, run_id: str) -> int:
        """The pid of the process that holds a run's lease."""
        query = text("SELECT worker_id FROM run WHERE run_id = CAST(:run_id AS uuid)")

        def held() -> str | None:
            with self.database.statement() as connection:
                return connection.execute(query, {"run_id": run_id}).scalar_one_or_none()

        return int(until(held).split(":")[1])

    def value(self, sql: str, **parameters: Any) -> Any:
        """The one value of a query."""
        with self.database.statement() as connection:
            return connection.execute(text(sql), parameters).scalar()

    def assert_consistent(self, unforked: Collection[str] | None = None) -> None:
        """What must hold after every scenario, whatever happened.

        Args:
            unforked: ids of the threads on which nobody went back to an earlier checkpoint; None
                means all.
        """
        until(
            lambda: self.value(
                "SELECT count(*) = 0 FROM run WHERE status IN ('pending', 'running')"
            )
        )
        busy = "SELECT count(*) FROM thread WHERE status = 'busy'"
        assert self.value(busy) == 0, "a thread is busy without an active run"
        twins = (
            "SELECT count(*) FROM (SELECT thread_id FROM checkpoints WHERE checkpoint_ns = '' "
            "AND (CAST(:ids AS text[]) IS NULL OR thread_id = ANY (:ids)) "
            "GROUP BY thread_id, parent_checkpoint_id HAVING count(*) > 1) AS fork"
        )
        ids = None if unforked is None else list(unforked)
        assert self.value(twins, ids=ids) == 0, "a checkpoint has two children"
        orphans = (
            "SELECT count(*) FROM checkpoints "
            "WHERE thread_id NOT IN (SELECT thread_id::text FROM thread)"
        )
        assert self.value(orphans) == 0, "a checkpoint has no thread"


def new_thread(http: httpx.Client) -> str:
    """Make a thread."""
    answer = http.post("/threads", json={})
    assert answer.status_code == 200, answer.text
    thread_id: str = answer.json()["thread_id"]
    return thread_id


def start(http: httpx.Client, thread_id: str, graph: str, **body: Any) -> dict[str, Any]:
    """Create a background run."""
    answer = http.post(f"/threads/{thread_id}/runs", json={"assistant_id": graph, **body})
    assert answer.status_code == 200, answer.text
    run: dict[str, Any] = answer.json()
    return run


def get(http: httpx.Client, run: dict[str, Any]) -> dict[str, Any]:
    """A run as it is now."""
    answer = http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def join(http: httpx.Client, run: dict[str, Any]) -> Any:
    """Wait for the end of a run: the thread's values."""
    return http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join").json()


@contextmanager
def streaming(
    http: httpx.Client, path: str, body: dict[str, Any]
) -> Iterator[Iterator[tuple[str, Any, str | None]]]:
    """Create a run and read its events: (name, data, id)."""
    with http.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        yield events_of(response)


def events_of(response: httpx.Response) -> Iterator[tuple[str, Any, str | None]]:
    """The events of a stream as they come."""
    name, data, event_id = "", None, None
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data = json.loads(value)
        elif field == "id":
            event_id = value
        elif not line and name:
            yield name, data, event_id
            name, data, event_id = "", None, None
