"""The SQL of crons and of the slots in which they have fired."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, extract, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from greenroom import encryption
from greenroom.database.pages import AnyRow, Page, read_page
from greenroom.database.scope import Scope, visible
from greenroom.database.tables import assistant, cron, cron_firing, thread
from greenroom.errors import NotFound

COLUMNS = (
    cron.c.cron_id,
    cron.c.assistant_id,
    cron.c.thread_id,
    cron.c.user_id,
    cron.c.end_time,
    cron.c.schedule,
    cron.c.timezone,
    cron.c.payload,
    cron.c.next_run_date,
    cron.c.metadata,
    cron.c.on_run_completed,
    cron.c.enabled,
    cron.c.created_at,
    cron.c.updated_at,
)
# Not the payload: one that cannot be read must not keep its cron from being put off.
DUE_COLUMNS = (
    cron.c.cron_id,
    cron.c.assistant_id,
    cron.c.thread_id,
    cron.c.end_time,
    cron.c.schedule,
    cron.c.timezone,
    cron.c.next_run_date,
    cron.c.metadata,
    cron.c.on_run_completed,
    func.now().label("now"),
)
IS_DUE = (cron.c.enabled, cron.c.next_run_date <= func.now())


def read_clock(connection: Connection) -> datetime:
    """The time by which crons are scheduled and fire."""
    now: datetime = connection.execute(select(func.now())).scalar_one()
    return now


def create_cron(connection: Connection, fields: Mapping[str, Any]) -> AnyRow:
    """Write a cron.

    Raises:
        NotFound: its assistant or thread has gone since it was looked up.
    """
    try:
        return connection.execute(insert(cron).values(**fields).returning(*COLUMNS)).one()
    except IntegrityError as error:
        raise NotFound("Thread or assistant not found.") from error


def find_cron(connection: Connection, cron_id: UUID, scope: Scope = None) -> AnyRow | None:
    """One cron, or None."""
    return connection.execute(_by_id(cron_id, scope)).one_or_none()


def lock_cron(connection: Connection, cron_id: UUID, scope: Scope = None) -> AnyRow | None:
    """One cron that neither fires nor changes until this transaction ends, or None."""
    return connection.execute(_by_id(cron_id, scope).with_for_update()).one_or_none()


def change_cron(connection: Connection, cron_id: UUID, changes: Mapping[str, Any]) -> AnyRow:
    """Write changes to a locked cron."""
    statement = (
        update(cron)
        .where(cron.c.cron_id == cron_id)
        # Not now(): this transaction may have begun before the one that it had to wait for.
        .values(updated_at=func.clock_timestamp(), **changes)
    )
    return connection.execute(statement.returning(*COLUMNS)).one()


def delete_cron(connection: Connection, cron_id: UUID, scope: Scope = None) -> bool:
    """Remove a cron; False when it was not there."""
    statement = cron.delete().where(cron.c.cron_id == cron_id, *visible(cron.c.metadata, scope))
    return connection.execute(statement).rowcount > 0


def search_crons(
    connection: Connection,
    conditions: Sequence[Any],
    *,
    fields: Collection[str],
    sort_by: str,
    is_descending: bool,
    limit: int,
    offset: int,
) -> Page:
    """A page of crons with the named fields alone."""
    query = select(*(column for column in COLUMNS if column.name in fields)).where(*conditions)
    column = cron.c[sort_by]
    # As the index has it, so that ties cost nothing.
    tie = cron.c.cron_id
    order = [column.desc(), tie] if is_descending else [column, tie.desc()]
    return read_page(connection, query.select_from(cron), order, limit, offset)


def count_crons(connection: Connection, conditions: Sequence[Any]) -> int:
    """How many crons match."""
    query = select(func.count()).select_from(cron).where(*conditions)
    count: int = connection.execute(query).scalar_one()
    return count


def conditions(
    *,
    assistant_id: UUID | None,
    thread_id: UUID | None,
    metadata: Mapping[str, Any] | None,
    enabled: bool | None,
    scope: Scope = None,
    threads_scope: Scope = None,
) -> list[Any]:
    """What the filters of search and count mean; None does not filter.

    Args:
        threads_scope: the caller's, for crons on a thread.
    """
    found: list[Any] = visible(cron.c.metadata, scope)
    if threads_scope is not None:
        seen = select(thread.c.thread_id).where(
            thread.c.thread_id == cron.c.thread_id, *visible(thread.c.metadata, threads_scope)
        )
        found.append(cron.c.thread_id.is_(None) | seen.exists())
    if assistant_id is not None:
        found.append(cron.c.assistant_id == assistant_id)
    if thread_id is not None:
        found.append(cron.c.thread_id == thread_id)
    if metadata:
        found.append(cron.c.metadata.contains(encryption.searchable(metadata)))
    if enabled is not None:
        found.append(cron.c.enabled.is_(enabled))
    return found


def list_due(connection: Connection, limit: int) -> Sequence[UUID]:
    """The crons whose time has come, longest due first. Locks nothing: see `lock_due_cron`."""
    query = select(cron.c.cron_id).where(*IS_DUE).order_by(cron.c.next_run_date).limit(limit)
    return connection.execute(query).scalars().all()


def find_next_due(connection: Connection) -> float | None:
    """In how many seconds the next cron is due: 0 or less when one is, None when none will be."""
    query = select(extract("epoch", func.min(cron.c.next_run_date) - func.now()))
    seconds = connection.execute(query.where(cron.c.enabled)).scalar_one()
    return None if seconds is None else float(seconds)


def find_due_cron(connection: Connection, cron_id: UUID) -> AnyRow | None:
    """A cron that is about to fire, as it is; None when it is not due any more."""
    query = select(*DUE_COLUMNS).where(cron.c.cron_id == cron_id, *IS_DUE)
    return connection.execute(query).one_or_none()


def lock_due_cron(connection: Connection, cron_id: UUID) -> AnyRow | None:
    """Take a cron for firing; None when it is not due any more, or in somebody else's hands.

    Waits for nobody, and so can hold up nothing and be part of no deadlock.
    """
    query = select(*DUE_COLUMNS).where(cron.c.cron_id == cron_id, *IS_DUE)
    return connection.execute(query.with_for_update(skip_locked=True)).one_or_none()


def find_due_metadata(connection: Connection, cron_id: UUID) -> AnyRow | None:
    """The metadata of a cron and of its assistant, for those of a run; None: it is not due."""
    query = (
        select(cron.c.metadata, assistant.c.metadata.label("base_metadata"))
        .join(assistant, assistant.c.assistant_id == cron.c.assistant_id)
        .where(cron.c.cron_id == cron_id, *IS_DUE)
    )
    return connection.execute(query).one_or_none()


def try_lock_thread(connection: Connection, thread_id: UUID) -> bool:
    """Take a thread's lock unless somebody has it."""
    query = select(thread.c.thread_id).where(thread.c.thread_id == thread_id)
    locked = connection.execute(query.with_for_update(skip_locked=True))
    return locked.one_or_none() is not None


def read_payload(connection: Connection, cron_id: UUID) -> tuple[dict[str, Any], Any]:
    """What a cron's runs are to be, and who made it.

    Raises:
        ValueError: it cannot be decoded.
    """
    query = select(cron.c.payload, cron.c.creator).where(cron.c.cron_id == cron_id)
    row = connection.execute(query).one()
    return row.payload, row.creator


def put_off(connection: Connection, cron_id: UUID, next_run_date: datetime | None) -> None:
    """Set the slot that comes after one that is used up. Not a change that clients are told of."""
    statement = update(cron).where(cron.c.cron_id == cron_id).values(next_run_date=next_run_date)
    connection.execute(statement)


def use_slot(connection: Connection, cron_id: UUID, slot: datetime) -> bool:
    """Record that a cron fires in a slot; False when it has before."""
    statement = insert(cron_firing).values(cron_id=cron_id, slot=slot).on_conflict_do_nothing()
    return connection.execute(statement).rowcount > 0


def sweep_firings(connection: Connection, age: timedelta, limit: int) -> None:
    """Forget slots that are too old to come again."""
    old = (
        select(cron_firing.c.cron_id, cron_firing.c.slot)
        .where(cron_firing.c.slot < func.now() - age)
        .order_by(cron_firing.c.slot)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = cron_firing.delete().where(
        tuple_(cron_firing.c.cron_id, cron_firing.c.slot).in_(old)
    )
    connection.execute(statement)


def _by_id(cron_id: UUID, scope: Scope) -> Select[Any]:
    return select(*COLUMNS).where(cron.c.cron_id == cron_id, *visible(cron.c.metadata, scope))
