"""What dashboards of the commercial server look for, under its names (`lg_api_*`).

Queue and workers come from Postgres, right across all processes. HTTP figures are counted in each
web process and added up by prometheus_client, for which gunicorn's settings name a directory.
"""

from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Gauge,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy import text

from greenroom.config import are_metrics_shared
from greenroom.database.engine import Database
from greenroom.queue.states import NOBODY

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Each count walks a partial index over unfinished runs; finished ones, however many, cost nothing.
READ_QUEUE = text(
    """
    WITH waiting AS (
        SELECT now() - due_at AS waited, true AS is_unblocked FROM run WHERE queue_state = 'ready'
        UNION ALL SELECT now() - due_at, false FROM run WHERE queue_state = 'queued'
    ), summary AS (
        SELECT count(*) AS n, max(waited) AS longest,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY waited) AS median,
               max(waited) FILTER (WHERE is_unblocked) AS longest_unblocked
          FROM waiting
    )
    SELECT summary.n + (SELECT count(*) FROM run WHERE queue_state = 'scheduled') AS n_pending,
           (SELECT count(*) FROM run
             WHERE status = 'running' AND assistant_id <> :nobody) AS n_running,
           coalesce(extract(epoch FROM longest), 0) AS longest,
           coalesce(extract(epoch FROM median), 0) AS median,
           coalesce(extract(epoch FROM longest_unblocked), 0) AS longest_unblocked,
           (SELECT coalesce(sum(slots), 0) FROM worker
             WHERE heartbeat_at > now() - interval '30 seconds') AS slots
      FROM summary
    """
)


def read_queue(database: Database) -> tuple[dict[str, Any], dict[str, int]]:
    """The queue and the workers of the whole deployment. Waiting times are seconds."""
    with database.statement() as connection:
        row = connection.execute(READ_QUEUE, {"nobody": NOBODY}).one()
    queue = {
        "n_pending": row.n_pending,
        "n_running": row.n_running,
        "pending_runs_wait_time_max_secs": max(0.0, float(row.longest)),
        "pending_runs_wait_time_med_secs": max(0.0, float(row.median)),
        "pending_unblocked_runs_wait_time_max_secs": max(0.0, float(row.longest_unblocked)),
    }
    slots = int(row.slots)
    active = min(row.n_running, slots)
    return queue, {"max": slots, "active": active, "available": slots - active}


def render(queue: dict[str, Any], workers: dict[str, int], stream_count: int) -> bytes:
    """Prometheus text: what this call has read, and the HTTP figures of all web processes."""
    registry = CollectorRegistry()
    figures = {
        "num_pending_runs": ("Runs that wait", queue["n_pending"]),
        "num_running_runs": ("Runs at work", queue["n_running"]),
        "pending_runs_wait_time_max": (
            "Longest wait of a pending run, seconds",
            queue["pending_runs_wait_time_max_secs"],
        ),
        "pending_runs_wait_time_med": (
            "Median wait of pending runs, seconds",
            queue["pending_runs_wait_time_med_secs"],
        ),
        "pending_unblocked_runs_wait_time_max": (
            "Longest wait of a run that no other holds up, seconds",
            queue["pending_unblocked_runs_wait_time_max_secs"],
        ),
        "workers_max": ("Slots of all workers", workers["max"]),
        "workers_active": ("Slots at work", workers["active"]),
        "workers_available": ("Free slots", workers["available"]),
        "active_streams": ("Open streams of the process that answers", stream_count),
    }
    for name, (description, value) in figures.items():
        Gauge(f"lg_api_{name}", description, registry=registry).set(value)
    return generate_latest(registry) + generate_latest(http_registry())


def http_registry() -> CollectorRegistry:
    """The figures of all web processes on this host, or of this one alone."""
    if not are_metrics_shared():
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
