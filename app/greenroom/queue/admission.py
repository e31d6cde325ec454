"""The transitions that requests make: admit a run under the multitask rule, and cancel runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from greenroom.database.engine import Statements
from greenroom.database.scope import Scope
from greenroom.encryption import dumps_members, seal
from greenroom.errors import NotFound, ThreadBusy, ThreadStatusDiffers
from greenroom.queue import outbox
from greenroom.queue.life import settle
from greenroom.queue.statements import STATEMENTS, together
from greenroom.queue.states import CancelAction, RunStatus
from greenroom.streaming.frames import Batch
from greenroom.streaming.thread_log import add_end, add_farewell

ADMIT_ON_NEW_THREAD = together("create_thread", "admit_run")


class AssistantChangedError(Exception):
    """The assistant was changed or deleted after the run was prepared. Nothing has happened."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What orders a thread's runs among those of others."""

    priority: int
    """From -5, which comes first, to 5."""
    fairness_group: str


class NewRun(NamedTuple):
    """A run that asks to be let in."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    multitask_strategy: str
    metadata: dict[str, Any]
    kwargs: bytes
    thread_metadata: dict[str, Any]
    """Merged into the thread's: graph_id and assistant_id, which state calls need later."""
    delay_seconds: float = 0
    base_metadata: dict[str, Any] | None = None
    """What lies below the thread's metadata, which lie below the run's own."""
    if_thread_status: tuple[str, ...] | None = None
    """Only a thread in one of these lets the run in; None: any."""
    assistant_updated_at: datetime | None = None
    """What it was made from, if that may have changed since; None: it has just been read."""
    webhook: str | None = None
    """Whom to tell about its end; None: nobody."""
    scope: Scope = None
    """Which threads its caller may use."""
    standing: Standing | None = None
    """What its thread shall have, unless it has one; None: nobody was asked."""
    is_heard: bool = False
    """Somebody reads its events from the first one on."""


@dataclass(frozen=True, slots=True)
class NewThread:
    """The thread that a run brings along."""

    metadata: dict[str, Any]
    is_temporary: bool
    """It goes with the run."""
    ttl_minutes: float | None = None
    ttl_strategy: str | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The run is durable once the transaction commits."""

    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    is_ready: bool
    """A worker may claim it now: ring the bell."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of the runs that were asked to stop."""

    ended: tuple[UUID, ...] = ()
    """Had not started; ended or removed by now."""
    asked: tuple[UUID, ...] = ()
    """Running, and their workers must be told; or begun, and the next worker will undo them."""
    has_next: bool = False
    """A worker may claim a run now: ring the bell."""
    events: tuple[Batch, ...] = ()
    """What readers of numbered events are to be told about those that ended."""

    def __bool__(self) -> bool:
        return bool(self.ended or self.asked)


def admit_run(connection: Statements, new: NewRun, brings: NewThread | None = None) -> Admitted:
    """Queue a run on its thread: strategies enqueue and reject in one round trip.

    For interrupt and rollback call `cancel_active` before, in one transaction (http.md 3.2).

    Raises:
        NotFound: no such thread.
        ThreadBusy: strategy reject, and a run is pending or running.
        ThreadStatusDiffers: the thread is in none of the states that the run asks for.
    """
    parameters = _thread_parameters(brings) if brings else {}
    row = connection.execute(
        STATEMENTS["admit_run"] if brings is None else ADMIT_ON_NEW_THREAD,
        {
            **parameters,
            "run_id": new.run_id,
            "thread_id": new.thread_id,
            "assistant_id": new.assistant_id,
            "assistant_updated_at": new.assistant_updated_at,
            "graph_id": new.graph_id,
            "multitask_strategy": new.multitask_strategy,
            "metadata": dumps_members(new.metadata).decode(),
            "kwargs": seal(new.kwargs),
            "webhook": new.webhook,
            "thread_metadata": dumps_members(new.thread_metadata).decode(),
            "delay_seconds": max(0.0, new.delay_seconds),
            "base_metadata": dumps_members(new.base_metadata or {}).decode(),
            "scope": new.scope,
            "priority": new.standing and new.standing.priority,
            "fairness_group": new.standing and new.standing.fairness_group,
            "is_heard": new.is_heard,
            "if_thread_status": list(new.if_thread_status) if new.if_thread_status else None,
        },
    ).one()
    if row.thread_status is None:
        raise NotFound("Thread or assistant not found.")
    if not row.is_current:
        raise AssistantChangedError
    if row.run_id is None:
        if new.if_thread_status and row.thread_status not in new.if_thread_status:
            raise ThreadStatusDiffers(new.thread_id, row.thread_status)
        raise ThreadBusy
    return Admitted(row.metadata, row.created_at, row.updated_at, row.queue_state == "ready")


def _thread_parameters(brings: NewThread) -> dict[str, Any]:
    return {
        "new_thread_metadata": dumps_members(brings.metadata).decode(),
        "is_temporary": brings.is_temporary,
        "ttl_minutes": brings.ttl_minutes,
        "ttl_strategy": brings.ttl_strategy,
    }


def cancel_active(
    connection: Connection, thread_id: UUID, action: CancelAction, scope: Scope = None
) -> Cancelled:
    """Stop everything that is running or queued on a thread, for a run that takes its place.

    Runs that wait for their time (after_seconds) are another matter and stay.
    """
    parameters = {"thread_id": thread_id, "scope": scope}
    if connection.execute(STATEMENTS["lock_thread"], parameters).one_or_none() is None:
        return Cancelled()
    active = connection.execute(STATEMENTS["find_active"], {"thread_id": thread_id}).all()
    return _cancel(connection, thread_id, [row.run_id for row in active], action)


def cancel_runs(
    connection: Connection,
    thread_id: UUID,
    run_ids: Sequence[UUID],
    action: CancelAction,
    scope: Scope = None,
) -> Cancelled:
    """Stop runs of one thread; falsy when none of them was active. Wants a transaction."""
    parameters = {"thread_id": thread_id, "scope": scope}
    locked = connection.execute(STATEMENTS["lock_thread"], parameters).one_or_none()
    if locked is None:
        return Cancelled()
    cancelled = _cancel(connection, thread_id, run_ids, action)
    has_next = settle(connection, thread_id) if cancelled.ended else False
    return replace(cancelled, has_next=has_next or cancelled.has_next)


def delete_run(
    connection: Connection, thread_id: UUID, run_id: UUID, scope: Scope = None
) -> tuple[bool, bool, Batch | None]:
    """Remove a run in any status, under the thread's lock.

    The fence goes with the row: whatever its worker still writes is refused.

    Returns:
        Whether it was there, whether another is ready now, and what readers of numbered events are
        to be told.
    """
    parameters = {"thread_id": thread_id, "scope": scope}
    if connection.execute(STATEMENTS["lock_thread"], parameters).one_or_none() is None:
        return False, False, None
    deleted = connection.execute(
        STATEMENTS["delete_run"], {"thread_id": thread_id, "run_id": run_id}
    ).one_or_none()
    if deleted is None:
        return False, False, None
    told = None
    if deleted.status == RunStatus.RUNNING:
        told = add_farewell(connection, thread_id, run_id, deleted.graph_id)
    return True, settle(connection, thread_id), told


def _cancel(
    connection: Connection, thread_id: UUID, run_ids: Sequence[UUID], action: CancelAction
) -> Cancelled:
    if not run_ids:
        return Cancelled()
    parameters = {
        "thread_id": thread_id,
        "run_ids": [str(run_id) for run_id in run_ids],
        "action": action,
    }
    events: tuple[Batch, ...] = ()
    if action is CancelAction.ROLLBACK:
        ended = connection.execute(STATEMENTS["delete_pending"], parameters).all()
    else:
        ended = connection.execute(STATEMENTS["cancel_pending"], parameters).all()
        told = [add_end(connection, thread_id, row.run_id, "interrupted") for row in ended]
        events = tuple(batch for batch in told if batch is not None)
        for row in ended:
            if row.webhook is not None:
                notice = outbox.get_notice(connection, row.run_id)
                error = outbox.describe_cancel(thread_id, row.run_id, action)
                outbox.owe(connection, notice, RunStatus.INTERRUPTED, error=error)
    ended_ids = tuple(row.run_id for row in ended)
    asked = connection.execute(STATEMENTS["flag_active"], parameters).all()
    return Cancelled(
        ended_ids,
        tuple(row.run_id for row in asked),
        has_next=any(row.status == RunStatus.PENDING for row in asked),
        events=events,
    )
