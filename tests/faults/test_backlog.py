"""A queue of any length: what a statement touches does not grow with it."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from deployment import Deployment, new_thread, start, until
from ledger import Ledger, usage_of
from report import Scenario
from sqlalchemy import text

from greenroom import wire
from greenroom.queue import life
from greenroom.queue.life import Outcome
from greenroom.queue.statements import STATEMENTS
from greenroom.queue.states import RunStatus

Open = Callable[[int, str], Scenario]

MARGIN_BLOCKS = 40
"""What a long queue may cost beyond a short one, in blocks of 8 KiB: indexes are deeper."""
KWARGS = wire.dumps({"input": {"text": "x" * 400}, "config": {"configurable": {"a": "b" * 400}}})

# Each list of threads gets one run per entry; those of one thread stand in its queue.
ADD_THREADS = text("""
INSERT INTO thread (thread_id, metadata, status)
SELECT gen_random_uuid(), jsonb_build_object('graph_id', 'echo', 'owner', n), 'busy'
  FROM generate_series(1, :count) AS n
RETURNING thread_id""")
ADD_RUNS = text("""
INSERT INTO run (run_id, thread_id, assistant_id, graph_id, status, queue_state, finished_at,
                 due_at, multitask_strategy, metadata, kwargs)
SELECT gen_random_uuid(), thread_id, gen_random_uuid(), 'echo', :status, :queue_state,
       CASE WHEN :status = 'success' THEN now() END,
       now() - make_interval(secs => 3600 - n / 1000.0), 'enqueue', '{"graph_id": "echo"}', :kwargs
  FROM unnest(CAST(:thread_ids AS uuid[])) WITH ORDINALITY AS given (thread_id, n)""")
ADD_RUNNING = text("""
INSERT INTO run (run_id, thread_id, assistant_id, graph_id, status, lease_token, worker_id,
                 lease_expires_at, multitask_strategy, metadata, kwargs)
VALUES (:run_id, :thread_id, gen_random_uuid(), 'echo', 'running', 1, 'nobody',
        now() + interval '1 hour', 'enqueue', '{}', :kwargs)""")


@dataclass
class Backlog:
    """Threads with a running run each: one with many that wait, one with many that have ended."""

    queued: UUID
    ended: UUID
    running: Mapping[UUID, UUID]
    """The running run of each."""


def fill(deployment: Deployment, *, ready: int, queued: int, ended: int) -> Backlog:
    """Insert runs: `ready` ones on a thread each, the others on one thread of their kind."""

    def add(thread_ids: list[UUID], status: str, queue_state: str | None) -> None:
        ids = [str(thread_id) for thread_id in thread_ids]
        parameters = {"thread_ids": ids, "status": status, "queue_state": queue_state}
        connection.execute(ADD_RUNS, {**parameters, "kwargs": KWARGS})

    with deployment.database.transaction() as connection:
        *many, waiting, old = connection.execute(ADD_THREADS, {"count": ready + 2}).scalars()
        add(many, "pending", "ready")
        running = {waiting: uuid4(), old: uuid4()}
        add([old] * ended, "success", None)
        for thread_id, run_id in running.items():
            ids = {"run_id": run_id, "thread_id": thread_id}
            connection.execute(ADD_RUNNING, {**ids, "kwargs": KWARGS})
        add([waiting] * queued, "pending", "queued")
    return Backlog(waiting, old, running)


def questions(backlog: Backlog) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The statements of the queue as they are sent: a name for the case, the statement, values."""
    admitted = {
        "run_id": uuid4(),
        "assistant_id": uuid4(),
        "assistant_updated_at": None,
        "graph_id": "echo",
        "metadata": "{}",
        "kwargs": KWARGS,
        "webhook": None,
        "thread_metadata": "{}",
        "delay_seconds": 0.0,
        "base_metadata": "{}",
        "is_heard": False,
        "if_thread_status": None,
    }
    ended = {
        "lease_token": 1,
        "cancel_action": None,
        "status": "success",
        "error": None,
        "thread_status": "idle",
        "thread_error": None,
        "config": b"{}",
        "values": b"{}",
        "output": None,
        "interrupts": b"{}",
        "snapshot": b"{}",
        "end_seq": 0,
        "end_frame": None,
    }
    for name, thread_id in (("queued", backlog.queued), ("ended", backlog.ended)):
        thread = {"thread_id": thread_id}
        for strategy in ("enqueue", "reject"):
            values = {**admitted, **thread, "multitask_strategy": strategy}
            yield f"admit, {strategy}, beside {name}", "admit_run", values
        finish = {**ended, **thread, "run_id": backlog.running[thread_id]}
        yield f"finish beside {name}", "finish_run_if_owned", finish
        yield f"promote beside {name}", "promote_next", thread
        yield f"settle beside {name}", "settle_thread", thread
    yield "find active beside ended", "find_active", {"thread_id": backlog.ended}
    yield "claim", "claim_run", {"worker_id": "somebody", "lease_seconds": 60}
    yield "look around", "look_around", {"limit": 10}
    limits = {"max_attempts": 3, "tolerated_losses": 2, "limit": 500, "ttl_seconds": 60}
    for sweep in ("requeue_expired", "find_exhausted", "find_due_runs"):
        yield sweep, sweep, limits
    for sweep in ("sweep_idempotency_keys", "sweep_results", "sweep_events"):
        yield sweep, sweep, limits


def plan_of(deployment: Deployment, statement: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of a statement's last part as it is executed; what it changes is undone."""
    *before, last = STATEMENTS[statement].text.split(";")
    # What most calls leave out.
    values = {**STATEMENTS[statement].compile().params, **values}
    with deployment.database.statement() as connection:
        connection.execute(text("BEGIN"))
        for part in before:
            connection.execute(text(part), values)
        explained = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {last}")
        (found,) = connection.execute(explained, values).scalar_one()
        connection.execute(text("ROLLBACK"))
    plan: dict[str, Any] = found["Plan"]
    return plan


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A plan's nodes."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def measure(deployment: Deployment, backlog: Backlog) -> dict[str, int]:
    """The blocks that each statement touches. No scan of all runs is among them."""
    touched = {}
    for case, statement, values in questions(backlog):
        plan = plan_of(deployment, statement, values)
        touched[case] = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return touched


def scans_of_all_runs(deployment: Deployment, backlog: Backlog) -> list[str]:
    """The cases whose plan reads the whole table of runs."""
    return [
        case
        for case, statement, values in questions(backlog)
        for node in nodes(plan_of(deployment, statement, values))
        if (node["Node Type"], node.get("Relation Name")) == ("Seq Scan", "run")
    ]


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """The cases that touch more than a longer queue explains."""
    return {
        case: (before[case], blocks)
        for case, blocks in after.items()
        if blocks > before[case] + MARGIN_BLOCKS
    }


def work_off(deployment: Deployment, count: int) -> list[float]:
    """Claim and end runs one after another; the seconds of each claim."""
    took = []
    outcome = Outcome(RunStatus.SUCCESS, "idle", values=b"{}")
    with deployment.database.direct() as connection:
        for _ in range(count):
            began = time.perf_counter()
            claim = life.claim_run(connection, "somebody", 60)
            took.append(time.perf_counter() - began)
            assert claim is not None
            parameters = {"cancel_action": None, "is_temporary": False}
            assert life.finish_run_if_owned(connection, claim.lease, outcome, **parameters)
    return took


def test_no_statement_costs_more_in_a_long_queue(
    deployment: Deployment, scenario: Open, is_full: bool
) -> None:
    """Also beside thousands that wait or have ended on one thread."""
    many, on_one_thread = (100_000, 10_000) if is_full else (20_000, 3_000)
    one = scenario(12, f"{many:,} runs queued, {on_one_thread:,} on one thread")
    short = fill(deployment, ready=10, queued=5, ended=5)
    before = measure(deployment, short)
    long = fill(deployment, ready=many, queued=on_one_thread, ended=on_one_thread)
    for upkeep in ("ANALYZE run", "VACUUM ANALYZE run"):
        with deployment.database.statement() as connection:
            connection.execute(text(upkeep))
        assert grown(before, measure(deployment, long)) == {}, upkeep
        assert scans_of_all_runs(deployment, long) == [], upkeep
    one.runs = many + 2 * on_one_thread


def test_claims_do_not_stumble_over_runs_that_have_ended(
    deployment: Deployment, scenario: Open, is_full: bool
) -> None:
    """Thousands are claimed and ended in a row, and nobody vacuums."""
    count = 5_000 if is_full else 1_500
    with deployment.database.statement() as connection:
        connection.execute(text("ALTER TABLE run SET (autovacuum_enabled = false)"))
    backlog = fill(deployment, ready=2 * count, queued=5, ended=5)
    before = measure(deployment, backlog)
    took = work_off(deployment, count)
    # While Postgres analyses a table by itself, its snapshot keeps entries that are done with.
    until(lambda: not grown(before, measure(deployment, backlog)))
    tenth = count // 10
    first, last = (1000 * statistics.median(part) for part in (took[:tenth], took[-tenth:]))
    one = scenario(12, f"{count:,} claims: {first:.2f} ms, the last {last:.2f} ms")
    one.runs = count


def test_a_long_queue_of_one_thread_is_worked_off_in_order(
    deployment: Deployment, scenario: Open, ledger: Ledger, is_full: bool
) -> None:
    """Through the API, from many clients at once; the worker's memory stays as it was."""
    count = 500 if is_full else 150
    one = scenario(12, f"{count} runs of one thread, worked off")
    deployment.start_web()
    with deployment.client() as http:
        thread_id = new_thread(http)
        body = {"input": {"kind": "none"}, "durability": "exit"}
        with ThreadPoolExecutor(8) as pool:
            for run in pool.map(lambda _: start(http, thread_id, "heavy", **body), range(count)):
                ledger.accept(run)
        worker = deployment.start_worker()
        done = "SELECT count(*) FROM run WHERE status = 'success'"
        until(lambda: deployment.value(done) >= count // 3, 120)
        warm = usage_of(deployment, [worker.pid])
        until(lambda: deployment.value(done) == count, 240)
    ledger.check()
    order = "SELECT array_agg(run_id ORDER BY {}) FROM run"
    by_end, by_start = (deployment.value(order.format(key)) for key in ("finished_at", "sequence"))
    assert by_end == by_start
    after = usage_of(deployment, [worker.pid])
    assert after.megabytes < warm.megabytes + 40
    assert after.descriptors <= warm.descriptors + 5
    one.runs, one.lost, one.doubled = count, len(ledger.lost()), len(ledger.doubled())
