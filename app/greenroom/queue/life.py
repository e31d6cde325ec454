"""The transitions that workers make: claim, renew, finish, release, sweep.

Every function is one guarded statement in one round trip, and takes a connection in autocommit
(`Database.statement`). All raise DatabaseUnavailable through the caller's block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from greenroom import wire
from greenroom.database.engine import Statements
from greenroom.encryption import seal, seal_maybe, unseal
from greenroom.queue import outbox
from greenroom.queue.statements import FINISH_WITH_CHECKPOINTS, STATEMENTS
from greenroom.queue.states import CancelAction, RunStatus

RESULT_SECONDS = 120
"""How long the output of a stateless run waits for the request that wanted it."""
SWEEP_LIMIT = 500
"""Rows that one sweep changes at most, so that none holds its locks for long."""
TOLERATED_LOSSES = 2
"""So often may a run be lost beside others; from then on it is executed apart."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write for a run, until another claim raises the token.

    No token is given twice, also when Postgres crashes and forgets a claim.
    """

    run_id: UUID
    thread_id: UUID
    token: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A run as its worker gets it."""

    lease: Lease
    assistant_id: UUID
    graph_id: str
    metadata: dict[str, Any]
    kwargs: dict[str, Any]
    attempt: int
    """From 1; a hand-back at shutdown does not count."""
    cancel_action: CancelAction | None
    """Somebody wants it stopped: end it, do not run it."""
    started_at: datetime
    """Of the first claim: the clock of the run's event ids."""
    created_at: datetime
    has_webhook: bool = False
    """Somebody is to be told about its end."""
    is_blank: bool = False
    """Its thread certainly has no checkpoint yet."""
    is_first: bool = False
    """Nobody has had the run before: nothing of it is written yet."""
    event_seq: int | None = None
    """The last numbered event of the runs before; None: nobody reads the thread's."""
    is_heard: bool = True
    """Somebody reads its events from the first one on, or may do so."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and what its thread shows from now on."""

    status: RunStatus
    thread_status: str
    """Idle, interrupted or error."""
    error: dict[str, str] | None = None
    """`{"error": class, "message": text}` of a failed run."""
    thread_error: dict[str, str] | None = None
    values: bytes | None = None
    """JSON of the state; None leaves the thread's values as they were."""
    output: bytes | None = None
    """JSON of what `wait` answers; None where it equals the values."""
    interrupts: bytes = b"{}"
    config: bytes = b"{}"
    snapshot: bytes | None = None
    """JSON of the state without its values, as a read would show it; None where it is unknown."""


@dataclass(frozen=True, slots=True)
class EndEvents:
    """The last numbered events of a run, kept with its end (greenroom.streaming.spans)."""

    first_seq: int
    last_seq: int
    spans: bytes


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """A run's last checkpoints, as `write_checkpoints` takes them: arrays of objects, in JSON."""

    heads: bytes
    blobs: bytes
    writes: bytes


@dataclass(frozen=True, slots=True)
class Requeued:
    """A run whose worker was lost, back in the queue."""

    run_id: UUID
    thread_id: UUID
    losses: int
    """Workers that it has been lost with."""
    is_suspect: bool
    """It waits for a process of its own."""


@dataclass(frozen=True, slots=True)
class Work:
    """What waits to be claimed, counted up to a limit."""

    due: int
    suspects: int
    next_due_seconds: float | None
    """Until the next scheduled run; None without any."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The run ended."""

    has_next: bool
    """Another run of its thread became ready."""
    is_work_left: bool
    """A run was due before the end of this one."""
    claim: Claim | None = None
    """What the worker has claimed along with it."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims a run, and for how long, by Postgres's clock."""

    worker_id: str
    """Stable for the life of one process."""
    lease_seconds: float


def claim_run(
    connection: Statements, worker_id: str, lease_seconds: float, *, is_suspect: bool = False
) -> Claim | None:
    """Lease the first due run, by its turn; None when nothing is due.

    Args:
        worker_id: stable for the life of one process.
        lease_seconds: from now, by Postgres's clock.
        is_suspect: claim from the runs that are to be executed apart.
    """
    row = connection.execute(
        STATEMENTS["claim_suspect" if is_suspect else "claim_run"],
        {"worker_id": worker_id, "lease_seconds": lease_seconds},
    ).one_or_none()
    return None if row is None else _claim_of(row)


def is_work_due(connection: Statements) -> bool:
    """Tell whether `claim_run` would find anything."""
    return bool(connection.execute(STATEMENTS["is_work_due"], {}).one().is_due)


def _claim_of(row: Any) -> Claim:
    return Claim(
        lease=Lease(row.run_id, row.thread_id, row.lease_token),
        assistant_id=row.assistant_id,
        graph_id=row.graph_id,
        metadata=row.metadata,
        kwargs=wire.loads(unseal(row.kwargs)),
        attempt=row.attempt,
        cancel_action=CancelAction(row.cancel_action) if row.cancel_action else None,
        started_at=row.started_at,
        created_at=row.created_at,
        has_webhook=row.webhook is not None,
        # A write of an earlier attempt may have been committed since this statement began.
        is_first=row.is_first,
        is_blank=row.is_blank and row.is_first,
        event_seq=row.event_seq,
        is_heard=row.is_heard,
    )


def renew_leases(
    connection: Connection, leases: Sequence[Lease], lease_seconds: float
) -> dict[UUID, CancelAction | None]:
    """Prolong leases in one statement; a run missing from the answer is lost.

    Returns:
        The wish to cancel of each run that is still ours, or None.
    """
    rows = connection.execute(
        STATEMENTS["renew_leases"],
        {
            "run_ids": [str(lease.run_id) for lease in leases],
            "lease_tokens": [lease.token for lease in leases],
            "lease_seconds": lease_seconds,
        },
    )
    return {
        row.run_id: CancelAction(row.cancel_action) if row.cancel_action else None for row in rows
    }


def finish_run_if_owned(
    connection: Statements,
    lease: Lease,
    outcome: Outcome,
    *,
    cancel_action: CancelAction | None,
    is_temporary: bool,
    end_frame: tuple[int, bytes] | None = None,
    end_events: EndEvents | None = None,
    checkpoints: Checkpoints | None = None,
    claimant: Claimant | None = None,
) -> Finished | None:
    """End a run, settle its thread and promote the next; None when it is not ours to end.

    Args:
        cancel_action: the wish that this end honours. A wish that came later refuses the end:
            the worker must look again (`find_wish`).
        is_temporary: the thread was made for this run alone and is deleted with it.
        end_frame: number and bytes of the last event, to be kept for replays; None keeps nothing.
        end_events: the same of generation 2.
        checkpoints: written with the end, or not at all; never of a temporary thread.
        claimant: gets the first due run with the end, as `claim_run` says; None: nobody does, nor
            with the end of a temporary thread.
    """
    statement = STATEMENTS["finish_run_if_owned"]
    error = seal(wire.dumps(outcome.error)) if outcome.error else None
    parameters: dict[str, Any] = {
        "run_id": lease.run_id,
        "thread_id": lease.thread_id,
        "lease_token": lease.token,
        "cancel_action": cancel_action,
        "status": outcome.status,
        "error": error,
    }
    if is_temporary:
        statement = STATEMENTS["finish_temporary_run_if_owned"]
        parameters["output"] = seal_maybe(outcome.output or outcome.values)
        parameters["result_seconds"] = RESULT_SECONDS
    else:
        parameters |= {
            "thread_status": outcome.thread_status,
            "thread_error": seal(wire.dumps(outcome.thread_error))
            if outcome.thread_error
            else None,
            "config": seal(outcome.config),
            "values": seal_maybe(outcome.values),
            "output": seal_maybe(outcome.output),
            "interrupts": seal(outcome.interrupts),
            "snapshot": seal_maybe(outcome.snapshot),
            "end_seq": end_frame[0] if end_frame else 0,
            "end_frame": seal(end_frame[1]) if end_frame else None,
            "first_event_seq": end_events.first_seq if end_events else None,
            "last_event_seq": end_events.last_seq if end_events else None,
            "spans": seal(end_events.spans) if end_events else None,
            "worker_id": claimant and claimant.worker_id,
            "lease_seconds": claimant and claimant.lease_seconds,
        }
    if checkpoints is not None:
        statement = FINISH_WITH_CHECKPOINTS
        parameters |= {
            "heads": checkpoints.heads.decode(),
            "blobs": checkpoints.blobs.decode(),
            "writes": checkpoints.writes.decode(),
        }
    row = connection.execute(statement, parameters).one_or_none()
    if row is None:
        return None
    claim = None if row.run_id is None else _claim_of(row)
    return Finished(row.has_next, row.is_work_left, claim)


def finish_run_and_owe(
    connection: Connection, lease: Lease, outcome: Outcome, **options: Any
) -> Finished | None:
    """As `finish_run_if_owned`, of a run with a webhook: writes what it is owed, too.

    Wants a transaction.
    """
    notice = outbox.find_notice(connection, lease.run_id)
    finished = finish_run_if_owned(connection, lease, outcome, **options)
    if finished is not None and notice is not None:
        why = outcome.error or outcome.thread_error
        outbox.owe(connection, notice, outcome.status, error=why, values=outcome.values)
    return finished


def find_wish(connection: Connection, lease: Lease) -> tuple[bool, CancelAction | None]:
    """Tell whether a lease still holds, and the wish to cancel that came with it."""
    row = connection.execute(
        STATEMENTS["find_lease"], {"run_id": lease.run_id, "lease_token": lease.token}
    ).one_or_none()
    if row is None:
        return False, None
    return True, CancelAction(row.cancel_action) if row.cancel_action else None


def release_run(
    connection: Connection, lease: Lease, *, delay_seconds: float = 0, is_charged: bool
) -> bool:
    """Hand a run back to the queue; False when it was not ours any more.

    Args:
        delay_seconds: the back-off before it may be claimed again.
        is_charged: whether the attempt counts; not at a shutdown.
    """
    row = connection.execute(
        STATEMENTS["release_run"],
        {
            "run_id": lease.run_id,
            "lease_token": lease.token,
            "delay_seconds": delay_seconds,
            "refund": 0 if is_charged else 1,
        },
    ).one_or_none()
    return row is not None


def expire_leases(connection: Connection, worker_ids: Sequence[str]) -> int:
    """End the leases of workers that are known to be dead; counts them. The sweep does the rest."""
    parameters = {"worker_ids": list(worker_ids)}
    return len(connection.execute(STATEMENTS["expire_leases"], parameters).all())


def look_around(connection: Statements, limit: int) -> tuple[list[str], bool, Work]:
    """What a sweep has to do, in one round trip.

    Returns:
        Every worker that holds a lease, dead or alive; whether a lease is over; due runs and
        suspects, each counted up to `limit`.
    """
    row = connection.execute(STATEMENTS["look_around"], {"limit": limit}).one()
    next_due = row.next_due_seconds
    work = Work(row.due, row.suspects, None if next_due is None else float(next_due))
    return list(row.holders), row.has_expired, work


def requeue_expired(connection: Connection, max_attempts: int) -> list[Requeued]:
    """Return the runs of dead workers to the queue."""
    rows = connection.execute(
        STATEMENTS["requeue_expired"],
        {
            "max_attempts": max_attempts,
            "tolerated_losses": TOLERATED_LOSSES,
            "limit": SWEEP_LIMIT,
        },
    )
    return [Requeued(row.run_id, row.thread_id, row.losses, row.is_suspect) for row in rows]


def find_exhausted(connection: Connection, max_attempts: int) -> list[tuple[Lease, int]]:
    """Find the runs whose last attempt died with its worker: (lease, workers lost)."""
    rows = connection.execute(
        STATEMENTS["find_exhausted"], {"max_attempts": max_attempts, "limit": SWEEP_LIMIT}
    )
    return [(Lease(row.run_id, row.thread_id, row.lease_token), row.losses) for row in rows]


def fail_exhausted_run(connection: Connection, lease: Lease, error: dict[str, str]) -> bool:
    """End such a run as `error`; False when another sweep, its worker or a cancel was first.

    Wants a transaction: it takes the thread's lock, and `settle` must follow.
    """
    row = connection.execute(
        STATEMENTS["fail_exhausted_run"],
        {
            "run_id": lease.run_id,
            "thread_id": lease.thread_id,
            "lease_token": lease.token,
            "error": seal(wire.dumps(error)),
            "result_seconds": RESULT_SECONDS,
        },
    ).one_or_none()
    if row is not None and row.webhook is not None:
        notice = outbox.get_notice(connection, lease.run_id)
        outbox.owe(connection, notice, RunStatus.ERROR, error=error)
    return row is not None


def remove_run_if_owned(
    connection: Connection, lease: Lease, last_event_seq: int | None = None
) -> bool:
    """Remove a rolled back run; False when it is not ours. Wants a transaction, then `settle`.

    Args:
        last_event_seq: the last number that its events have taken, never to be given again.
    """
    row = connection.execute(
        STATEMENTS["remove_run_if_owned"],
        {
            "run_id": lease.run_id,
            "thread_id": lease.thread_id,
            "lease_token": lease.token,
            "last_event_seq": last_event_seq,
        },
    ).one_or_none()
    return row is not None


def settle(connection: Connection, thread_id: UUID) -> bool:
    """After runs left a thread: promote the next, set the status, drop a temporary thread.

    Wants the thread's lock. Tells whether another run became ready.
    """
    parameters = {"thread_id": thread_id}
    promoted = connection.execute(STATEMENTS["promote_next"], parameters).one_or_none()
    connection.execute(STATEMENTS["settle_thread"], parameters)
    connection.execute(STATEMENTS["delete_idle_temporary_thread"], parameters)
    return promoted is not None


def settle_due_runs(connection: Connection) -> int:
    """Let scheduled runs whose time has come take their place; counts those now ready."""
    due = connection.execute(STATEMENTS["find_due_runs"], {"limit": SWEEP_LIMIT}).all()
    states = [
        connection.execute(
            STATEMENTS["settle_due_run"], {"run_id": row.run_id, "thread_id": row.thread_id}
        ).scalar_one_or_none()
        for row in due
    ]
    return states.count("ready")


def beat(connection: Connection, worker_id: str, slots: int) -> None:
    """Give a sign of life."""
    connection.execute(STATEMENTS["beat"], {"worker_id": worker_id, "slots": slots})


def sign_off(connection: Connection, worker_id: str) -> None:
    """Take a worker off the list."""
    connection.execute(STATEMENTS["sign_off"], {"worker_id": worker_id})


def sweep_leftovers(connection: Connection, resumable_ttl_seconds: float) -> None:
    """Drop unfetched results, spent idempotency keys, replays that nobody may ask for any more."""
    connection.execute(STATEMENTS["sweep_results"], {"limit": SWEEP_LIMIT})
    connection.execute(STATEMENTS["sweep_idempotency_keys"], {"limit": SWEEP_LIMIT})
    parameters = {"ttl_seconds": resumable_ttl_seconds, "limit": SWEEP_LIMIT}
    connection.execute(STATEMENTS["sweep_events"], parameters)
    connection.execute(STATEMENTS["sweep_numbered_events"], parameters)
