"""What a run costs to admit and to claim when many others wait, or have long been done.

Calls the queue's own functions on databases of its own: nothing else is in the way, and millions of
rows are made in a minute.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Self
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from benchmarks.loop import Figures, milliseconds
from benchmarks.processes import Processes
from benchmarks.sizes import Sizes
from greenroom.cli.embedded import EmbeddedPostgres
from greenroom.config import Config, Project
from greenroom.database.engine import Database
from greenroom.database.migrate import migrate
from greenroom.identifiers import new_id
from greenroom.queue.admission import NewRun, NewThread, admit_run
from greenroom.queue.life import Outcome, claim_run, finish_run_if_owned
from greenroom.queue.states import RunStatus

# Ids grow with time, as those do that the server gives.
MAKE_THREADS = """
INSERT INTO thread (thread_id, metadata, status)
SELECT uuidv7(interval '-2 hours'), '{"graph_id": "echo"}', %(status)s
  FROM generate_series(1, %(count)s)
"""
# Their threads' own columns do not matter here; the indexes of both tables do.
MAKE_QUEUED = """
INSERT INTO run (run_id, thread_id, assistant_id, graph_id, queue_state, due_at, turn,
                 multitask_strategy, metadata, kwargs)
SELECT uuidv7(interval '-1 hour'), thread_id, gen_random_uuid(), 'echo', 'ready',
       now() - interval '1 hour' + make_interval(secs => number / 1000.0),
       (extract(epoch FROM now() - interval '1 hour') * 1000000)::bigint + number * 1000,
       'enqueue', '{"graph_id": "echo"}', '{}'
  FROM (SELECT thread_id, row_number() OVER () AS number FROM thread) AS numbered
"""
MAKE_FINISHED = """
INSERT INTO run (run_id, thread_id, assistant_id, graph_id, status, attempt, lease_token,
                 started_at, finished_at, multitask_strategy, metadata, kwargs)
SELECT uuidv7(interval '-1 hour'), thread_id, gen_random_uuid(), 'echo', 'success', 1, 1,
       now(), now(), 'enqueue', '{"graph_id": "echo"}', '{}'
  FROM thread, generate_series(1, %(each)s)
"""
RUNS_PER_THREAD = 10
WORKER = "benchmark"
LEASE_SECONDS = 600.0


class Backlog:
    """One Postgres with three databases: empty, with queued runs, and with finished ones."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.postgres = EmbeddedPostgres(folder / "backlog")
        self.sizes = sizes
        self.databases: dict[str, Database] = {}
        self.cleaning = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            postgres = stack.enter_context(self.postgres)
            assert postgres.process
            self.processes = Processes([postgres.process.pid])
            for name in ("empty", "queued", "finished"):
                database = Database(self.create(name), pool_size=2, application_name=WORKER)
                stack.callback(database.close)
                self.databases[name] = database
            self.fill("queued", self.sizes.queued_rows, "busy", MAKE_QUEUED, {})
            self.fill(
                "finished",
                self.sizes.finished_rows // RUNS_PER_THREAD,
                "idle",
                MAKE_FINISHED,
                {"each": RUNS_PER_THREAD},
            )
            self.cleaning = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.cleaning.close()

    def uri(self, name: str) -> str:
        """Where one of the databases is."""
        return f"{self.postgres.uri.rpartition('/')[0]}/{name}"

    def create(self, name: str) -> Config:
        """Make a database with its tables."""
        with psycopg.connect(self.postgres.uri, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        project = Project(directory=Path(), graphs={})
        config = Config(database_uri=self.uri(name), redis_uri="redis://unused", project=project)
        migrate(config)
        return config

    def fill(
        self, name: str, threads: int, status: str, make_runs: str, parameters: Mapping[str, int]
    ) -> None:
        """Make rows as a long life would have left them."""
        with psycopg.connect(self.uri(name), autocommit=True) as connection:
            connection.execute(MAKE_THREADS, {"status": status, "count": threads})
            connection.execute(make_runs, parameters)
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")

    def measure(self) -> Figures:
        """Admit, claim and finish one run after the other, in turns on each database."""
        taken: dict[str, list[float]] = {}
        for number in range(self.sizes.queue_calls + self.sizes.queue_calls // 10):
            # The first ones open connections and warm caches.
            is_measured = number >= self.sizes.queue_calls // 10
            for name, database in self.databases.items():
                steps = self.turn(database)
                if is_measured:
                    for step, seconds in steps.items():
                        taken.setdefault(f"{name}.{step}", []).append(seconds)
        figures: Figures = {}
        for title, samples in taken.items():
            figures |= milliseconds(title, samples)
        return figures

    def turn(self, database: Database) -> dict[str, float]:
        """One run's way through the queue: the seconds of each step."""
        with database.direct() as connection:
            clocks = [perf_counter()]
            admit_run(connection, new_run(new_id()), NewThread(metadata={}, is_temporary=False))
            clocks.append(perf_counter())
            claim = claim_run(connection, WORKER, LEASE_SECONDS)
            clocks.append(perf_counter())
            assert claim
            outcome = Outcome(RunStatus.SUCCESS, "idle", values=b"{}")
            finish_run_if_owned(
                connection, claim.lease, outcome, cancel_action=None, is_temporary=False
            )
            clocks.append(perf_counter())
        steps = ("admit", "claim", "finish")
        return {
            step: after - before
            for step, before, after in zip(steps, clocks[:-1], clocks[1:], strict=True)
        }


def new_run(thread_id: UUID) -> NewRun:
    """Make a run as a request would."""
    return NewRun(
        run_id=new_id(),
        thread_id=thread_id,
        assistant_id=uuid4(),
        graph_id="echo",
        multitask_strategy="enqueue",
        metadata={"graph_id": "echo"},
        kwargs=b'{"input": {"text": "hello"}}',
        thread_metadata={"graph_id": "echo"},
    )
