"""The rules of runs: how one is let in, stopped, shown and answered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from greenroom import wire
from greenroom.database.engine import Database
from greenroom.database.pages import AnyRow
from greenroom.database.scope import Scope
from greenroom.encryption import unseal_maybe
from greenroom.errors import InvalidRequest, NotFound, RunNotFound, ThreadNotFound
from greenroom.queue.admission import (
    Admitted,
    AssistantChangedError,
    Cancelled,
    NewThread,
    admit_run,
    cancel_active,
    cancel_runs,
    delete_run,
)
from greenroom.queue.states import CancelAction, RunStatus
from greenroom.runs import queries
from greenroom.runs.idempotency import Key, RepeatedRequestError, find_repeat, lock_key, write_key
from greenroom.runs.preparing import Prepared
from greenroom.runs.schemas import RUN_FIELDS
from greenroom.signals.sender import Signals
from greenroom.streaming.frames import make_end, pack
from greenroom.threads.queries import thread_exists

SHOWN_OF_USER = ("identity", "display_name", "is_authenticated", "permissions")


@dataclass(frozen=True, slots=True)
class Entry:
    """A run that was let in, and what became of those that had to make room for it."""

    admitted: Admitted
    cancelled: Cancelled


def admit(
    database: Database, signals: Signals, prepared: Prepared, key: Key | None = None
) -> dict[str, Any]:
    """Let a run in and wake a worker; the run as clients see it.

    Args:
        key: of a request that may come again.
    Raises:
        NotFound: no such thread, and the request does not create it.
        ThreadBusy: strategy reject on a busy thread.
        ThreadStatusDiffers: the thread is in none of the states that were asked for.
        KeyReused: the key stands for another request.
        RepeatedRequestError: the key stands for this very request, whose run exists.
    """
    try:
        entry = _admit(database, prepared, key)
    except AssistantChangedError:
        if prepared.again is None:
            raise
        prepared = prepared.again()
        entry = _admit(database, prepared, key)
    announce_entry(signals, prepared, entry)
    return show_new(prepared, entry.admitted)


def _admit(database: Database, prepared: Prepared, key: Key | None) -> Entry:
    # A thread that was named may be there, and the run be refused: that is several statements.
    is_single = prepared.is_stateless or not prepared.creates_thread
    if key is None and prepared.action is None and is_single:
        with database.direct() as direct:
            admitted = admit_run(direct, prepared.new, brought_thread(prepared))
            return Entry(admitted, Cancelled())
    if key is None:
        with database.transaction() as connection:
            return enter(connection, prepared)
    return enter_once(database, prepared, key)


def enter_once(database: Database, prepared: Prepared, key: Key) -> Entry:
    """Let a run in unless its key stands for one.

    Raises: as `admit`.
    """
    with database.transaction() as connection:
        # First, so that a twin of this request waits here, not behind the run of its twin.
        lock_key(connection, key)
        if repeat := find_repeat(connection, key):
            raise RepeatedRequestError(repeat)
        entry = enter(connection, prepared)
        shown = show_new(prepared, entry.admitted)
        write_key(connection, key, shown, is_temporary=prepared.is_temporary)
    return entry


def enter(connection: Connection, prepared: Prepared) -> Entry:
    """Let a run in, on the thread that it brings or finds, its strategy applied to those before.

    Wants a transaction when it brings a thread or stops runs, and `announce_entry` after it.

    Raises: as `admit`.
    """
    cancelled = Cancelled()
    if prepared.action is not None:
        cancelled = cancel_active(
            connection, prepared.new.thread_id, prepared.action, prepared.new.scope
        )
    admitted = admit_run(connection, prepared.new, brought_thread(prepared))
    return Entry(admitted, cancelled)


def announce_entry(signals: Signals, prepared: Prepared, entry: Entry) -> None:
    """Tell who had to make room, and wake a worker."""
    action = prepared.action or CancelAction.INTERRUPT
    announce(signals, prepared.new.thread_id, entry.cancelled, action)
    if entry.admitted.is_ready:
        signals.ring()


def admit_all(
    database: Database, signals: Signals, batch: Sequence[Prepared]
) -> list[dict[str, Any]]:
    """Let stateless runs in together, all or none."""
    try:
        admitted = _admit_all(database, batch)
    except AssistantChangedError:
        batch = [prepared.again() if prepared.again else prepared for prepared in batch]
        admitted = _admit_all(database, batch)
    signals.ring(sum(one.is_ready for one in admitted))
    return [show_new(*pair) for pair in zip(batch, admitted, strict=True)]


def _admit_all(database: Database, batch: Sequence[Prepared]) -> list[Admitted]:
    with database.transaction() as connection:
        return [admit_run(connection, one.new, brought_thread(one)) for one in batch]


def brought_thread(prepared: Prepared) -> NewThread | None:
    """The thread that a run brings along, for `admit_run`; None when it finds its own."""
    if not prepared.creates_thread:
        return None
    minutes, strategy = (
        (prepared.ttl.minutes, prepared.ttl.strategy) if prepared.ttl else (None, None)
    )
    return NewThread(prepared.thread_metadata, prepared.is_temporary, minutes, strategy)


def cancel(
    database: Database,
    signals: Signals,
    thread_id: UUID,
    run_ids: Sequence[UUID],
    action: CancelAction,
    scope: Scope = None,
) -> Cancelled:
    """Stop runs of a thread.

    Returns:
        Which ended at once, and which a worker was asked to end.
    Raises:
        NotFound: none of them is active.
    """
    with database.transaction() as connection:
        cancelled = cancel_runs(connection, thread_id, run_ids, action, scope)
    if not cancelled:
        raise NotFound(reason_for_nothing(database, thread_id, run_ids, scope))
    announce(signals, thread_id, cancelled, action)
    return cancelled


def cancel_by_status(
    database: Database,
    signals: Signals,
    status: str,
    action: CancelAction,
    scope: Scope = None,
) -> None:
    """Stop every run of the server that is pending, running or either (`all`).

    Raises:
        NotFound: there is none.
    """
    statuses = [RunStatus.PENDING, RunStatus.RUNNING] if status == "all" else [status]
    with database.statement() as connection:
        rows = queries.list_active(connection, statuses, scope)
    by_thread: dict[UUID, list[UUID]] = {}
    for row in rows:
        by_thread.setdefault(row.thread_id, []).append(row.run_id)
    has_cancelled = False
    for thread_id, run_ids in by_thread.items():
        with database.transaction() as connection:
            cancelled = cancel_runs(connection, thread_id, run_ids, action, scope)
        announce(signals, thread_id, cancelled, action)
        has_cancelled = has_cancelled or bool(cancelled)
    if not has_cancelled:
        raise NotFound("No runs found to cancel.")


def reason_for_nothing(
    database: Database, thread_id: UUID, run_ids: Iterable[UUID], scope: Scope
) -> str:
    """Why nothing could be cancelled: unknown, or over."""
    with database.statement() as connection:
        known = any(queries.find_run(connection, thread_id, run_id, scope) for run_id in run_ids)
    if known:
        return "No matching runs to cancel. Please verify that the run has not finished yet."
    return "No runs found to cancel."


def announce(signals: Signals, thread_id: UUID, cancelled: Cancelled, action: CancelAction) -> None:
    """Tell workers whom to stop, clients whose run is over, and the bell if another is ready."""
    signals.cancel(cancelled.asked, action)
    for run_id in cancelled.ended:
        announce_end(signals, thread_id, run_id)
    for batch in cancelled.events:
        signals.publish_numbered(thread_id, pack(batch))
    if cancelled.has_next:
        signals.ring()


def announce_end(signals: Signals, thread_id: UUID, run_id: UUID) -> None:
    """End the streams of a run that no worker will end."""
    signals.publish(thread_id, pack(make_end(run_id)))


def remove(
    database: Database, signals: Signals, thread_id: UUID, run_id: UUID, scope: Scope = None
) -> None:
    """Delete a run in any status, with its checkpoints.

    Raises:
        RunNotFound: no such run on this thread.
    """
    with database.transaction() as connection:
        was_there, has_next, told = delete_run(connection, thread_id, run_id, scope)
        if was_there:
            queries.delete_checkpoints(connection, thread_id, [run_id])
    if not was_there:
        raise RunNotFound
    signals.cancel([run_id], "delete")
    announce_end(signals, thread_id, run_id)
    if told is not None:
        signals.publish_numbered(thread_id, pack(told))
    if has_next:
        signals.ring()


def get_run(
    database: Database, thread_id: UUID, run_id: UUID, scope: Scope = None
) -> dict[str, Any]:
    """A run as clients see it.

    Raises:
        ThreadNotFound, NotFound: no such thread; no such run on it.
    """
    with database.direct() as direct:
        row = queries.find_shown_run(direct, thread_id, run_id, scope)
    if row is None:
        with database.statement() as connection:
            if not thread_exists(connection, thread_id, scope):
                raise ThreadNotFound(thread_id)
        raise NotFound
    return show(row)


def list_runs(
    database: Database,
    thread_id: UUID,
    *,
    status: str | None,
    limit: int,
    offset: int,
    fields: Sequence[str],
    scope: Scope = None,
) -> list[dict[str, Any]]:
    """A page of a thread's runs, newest first, all their fields or those selected.

    Raises:
        InvalidRequest: an unknown field is selected.
        ThreadNotFound: no such thread.
    """
    if unknown := sorted(set(fields) - set(RUN_FIELDS)):
        raise InvalidRequest(f"Invalid select columns: {unknown}. Expected: {sorted(RUN_FIELDS)}")
    with database.statement() as connection:
        rows = queries.list_runs(
            connection, thread_id, status=status, limit=limit, offset=offset, scope=scope
        )
        if not rows and not thread_exists(connection, thread_id, scope):
            raise ThreadNotFound(thread_id)
    shown = [show(row) for row in rows]
    return [{name: run[name] for name in fields} for run in shown] if fields else shown


def show(row: AnyRow) -> dict[str, Any]:
    """A run on the wire."""
    return {
        "run_id": row.run_id,
        "thread_id": row.thread_id,
        "assistant_id": row.assistant_id,
        "metadata": row.metadata,
        "status": row.status,
        "kwargs": shown_kwargs(row.kwargs),
        "multitask_strategy": row.multitask_strategy,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "langsmith_session_name": None,
    }


def shown_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A run's kwargs without the owner's own fields of its caller, which may be secret."""
    config = kwargs["config"]
    user = config["configurable"].get("langgraph_auth_user")
    if user is None:
        return kwargs
    shown = {name: user[name] for name in SHOWN_OF_USER if name in user}
    configurable = {**config["configurable"], "langgraph_auth_user": shown}
    return {**kwargs, "config": {**config, "configurable": configurable}}


def show_new(prepared: Prepared, admitted: Admitted) -> dict[str, Any]:
    """A run on the wire that has just been let in."""
    new = prepared.new
    return {
        "run_id": new.run_id,
        "thread_id": new.thread_id,
        "assistant_id": new.assistant_id,
        "metadata": admitted.metadata,
        "status": RunStatus.PENDING,
        "kwargs": shown_kwargs(prepared.kwargs),
        "multitask_strategy": new.multitask_strategy,
        "created_at": admitted.created_at,
        "updated_at": admitted.updated_at,
        "langsmith_session_name": None,
    }


def answer(database: Database, thread_id: UUID, run_id: UUID, scope: Scope = None) -> bytes:
    """What wait and join answer for a run that has ended: the thread's values, or the failure."""
    with database.direct() as connection:
        row = queries.find_answer(connection, thread_id, run_id, scope)
    if row is None:
        return UNKNOWN_RUN
    if row.status in {RunStatus.ERROR, RunStatus.TIMEOUT}:
        return b'{"__error__":%b}' % (unseal_maybe(row.error) or b"null")
    body = row.output if row.output is not None else row.values
    return unseal_maybe(body) or b"{}"


UNKNOWN_RUN = wire.dumps({"__error__": {"error": "HTTPException", "message": "404: Run not found"}})
UNKNOWN_RUN_EVENT = wire.dumps({"error": "HTTPException", "message": "404: Run not found"})
