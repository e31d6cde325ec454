"""What the clients of a scenario were promised, and the check that the promises were kept."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from deployment import Deployment, events_of, until
from sqlalchemy import text

TERMINAL = {"success", "error", "interrupted", "timeout"}

FORKS = """
SELECT count(*) FROM (SELECT FROM checkpoints
                      GROUP BY thread_id, checkpoint_ns, parent_checkpoint_id
                      HAVING count(*) > 1) AS fork"""
LOST_PARENTS = """
SELECT count(*) FROM checkpoints AS child WHERE parent_checkpoint_id IS NOT NULL AND NOT EXISTS (
       SELECT FROM checkpoints AS parent
        WHERE (parent.thread_id, parent.checkpoint_ns, parent.checkpoint_id)
            = (child.thread_id, child.checkpoint_ns, child.parent_checkpoint_id))"""
ORPHANS = """
SELECT (SELECT count(*) FROM {table}
         WHERE thread_id::text NOT IN (SELECT thread_id::text FROM thread))"""
TABLES_OF_THREADS = (
    *("checkpoints", "checkpoint_blobs", "checkpoint_writes", "run", "run_event", "thread_state"),
)
HALF_ENDED = """
SELECT count(*) FROM run
 WHERE (status IN ('pending', 'running')) IS DISTINCT FROM (finished_at IS NULL)
    OR (status <> 'running' AND (worker_id IS NOT NULL OR lease_expires_at IS NOT NULL))
    OR (status = 'pending') IS DISTINCT FROM (queue_state IS NOT NULL)"""
TWICE_TOLD = """
SELECT count(*) FROM (SELECT FROM webhook_delivery GROUP BY run_id HAVING count(*) > 1) AS twice"""


@dataclass
class Reading:
    """One client's stream, over as many connections as it took."""

    run_id: str
    ids: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    ends: int = 0

    @property
    def repeats(self) -> int:
        """Events that came twice."""
        return sum(count - 1 for count in Counter(self.ids).values())


class Ledger:
    """Remembers accepted runs and streams of one scenario; `check` is the invariant checker."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.runs: dict[str, str] = {}
        """run id to thread id; only runs whose thread stays."""
        self.steps: dict[str, int] = {}
        """run id to the length of the trail that its thread must show."""
        self.readings: list[Reading] = []
        self._lock = threading.Lock()

    def accept(self, run: dict[str, Any], *, steps: int | None = None) -> dict[str, Any]:
        """Note a run that the server took on.

        Args:
            steps: of a run of the graph `steps` alone on its thread: the trail is 0 to steps - 1.
        """
        with self._lock:
            self.runs[run["run_id"]] = run["thread_id"]
            if steps is not None:
                self.steps[run["run_id"]] = steps
        return run

    def read(
        self, http: httpx.Client, run: dict[str, Any], *, seconds: float = 60, after: str = "-1"
    ) -> Reading:
        """Read a resumable run to its end as a careful client does: reconnect where it stopped."""
        reading = Reading(run["run_id"])
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
        give_up = time.monotonic() + seconds
        while not reading.ends:
            assert time.monotonic() < give_up, f"no end of {reading} within {seconds} s"
            try:
                with http.stream(
                    "GET", f"{path}/stream", headers={"last-event-id": after}
                ) as response:
                    if response.status_code == 503:
                        time.sleep(0.2)
                        continue
                    assert response.status_code == 200, response.read()
                    for name, data, event_id in events_of(response):
                        reading.names.append(name)
                        if event_id is not None:
                            reading.ids.append(event_id)
                            after = event_id
                        if name == "custom" and "step" in data:
                            reading.steps.append(data["step"])
                    reading.ends += 1
            except httpx.TransportError:
                time.sleep(0.1)
        with self._lock:
            self.readings.append(reading)
        return reading

    def lost(self) -> list[str]:
        """Accepted runs that are gone, or in no terminal status."""
        found = self._statuses()
        return [run_id for run_id in self.runs if found.get(run_id) not in TERMINAL]

    def doubled(self) -> list[str]:
        """Runs whose effects show twice: in their thread's trail or in a client's stream."""
        twice = [reading.run_id for reading in self.readings if reading.repeats]
        statuses = self._statuses()
        for run_id, steps in self.steps.items():
            if self.runs[run_id] and statuses[run_id] == "success":
                trail = self._trail(self.runs[run_id])
                if trail != list(range(steps)):
                    twice.append(run_id)
        return twice

    def check(self, *, seconds: float = 60) -> None:
        """Hold the deployment to its invariants (docs/reliability.md) once everything has ended."""
        value = self.deployment.value
        until(
            lambda: value("SELECT count(*) = 0 FROM run WHERE status IN ('pending', 'running')"),
            seconds,
        )
        assert self.lost() == []
        assert self.doubled() == []
        assert value("SELECT count(*) FROM thread WHERE status = 'busy'") == 0
        assert value(HALF_ENDED) == 0, "a run is half ended"
        assert value(FORKS) == 0, "a checkpoint has two children"
        assert value(LOST_PARENTS) == 0, "a checkpoint's parent is missing"
        for table in TABLES_OF_THREADS:
            assert value(ORPHANS.format(table=table)) == 0, f"rows of {table} have no thread"
        assert value(TWICE_TOLD) == 0, "a webhook was owed twice"
        assert all(reading.ends == 1 for reading in self.readings)

    def _statuses(self) -> dict[str, str]:
        query = text("SELECT run_id::text, status FROM run WHERE run_id = ANY (:ids ::uuid[])")
        with self.deployment.database.statement() as connection:
            rows = connection.execute(query, {"ids": list(self.runs)}).all()
        return dict(rows)

    def _trail(self, thread_id: str) -> Any:
        with self.deployment.client() as http:
            return http.get(f"/threads/{thread_id}/state").json()["values"].get("trail")


@dataclass(frozen=True)
class Usage:
    """What living processes hold on to."""

    descriptors: int
    pooled: int
    """Of the descriptors, connections to Postgres and Redis."""
    threads: int
    children: int
    database_connections: int
    megabytes: float


def usage_of(deployment: Deployment, pids: Sequence[int] | None = None) -> Usage:
    """Count what the processes of a deployment (or some of them) hold, children included."""
    own = pids or [
        process.pid
        for process in [*deployment.workers, *deployment.webs.values()]
        if process.poll() is None
    ]
    processes = [psutil.Process(pid) for pid in own]
    children = [child for process in processes for child in process.children(recursive=True)]
    everyone = [*processes, *children]
    connections = deployment.value(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'greenroom%'"
    )
    ports = {urlsplit(uri).port for uri in (deployment.postgres.uri, deployment.redis.uri)}
    return Usage(
        descriptors=sum(process.num_fds() for process in everyone),
        pooled=sum(
            bool(connection.raddr) and connection.raddr.port in ports
            for process in everyone
            for connection in process.net_connections("tcp")
        ),
        threads=sum(process.num_threads() for process in everyone),
        children=len(children),
        database_connections=connections,
        megabytes=sum(process.memory_info().rss for process in everyone) / 2**20,
    )
