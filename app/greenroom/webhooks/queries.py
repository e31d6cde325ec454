"""The SQL of deliveries once they are owed; they come to be in greenroom.queue.outbox."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    case,
    func,
    literal,
    null,
    select,
    text,
    type_coerce,
    update,
)

from greenroom.database.engine import Statements
from greenroom.database.pages import AnyRow
from greenroom.database.scope import Scope, visible
from greenroom.database.tables import webhook_delivery as delivery
from greenroom.encryption import unseal

HAS_ENDED = delivery.c.next_attempt_at.is_(None)
STATUS = case(
    (delivery.c.delivered_at.is_not(None), "delivered"), (HAS_ENDED, "failed"), else_="pending"
)
COLUMNS = (
    delivery.c.delivery_id,
    delivery.c.url,
    STATUS.label("status"),
    delivery.c.attempts,
    delivery.c.last_status,
    delivery.c.last_error,
    delivery.c.next_attempt_at,
    delivery.c.created_at,
    delivery.c.delivered_at,
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that one process may send until its lease runs out."""

    delivery_id: UUID
    run_id: UUID
    url: str
    host: str
    body: bytes
    """JSON without `webhook_sent_at`."""
    attempt: int
    """From 1, this one included. It is the fence, too: a later claim has a higher one."""
    sent_at: datetime
    """Now, by Postgres's clock."""


HAS_DUE = text(
    "SELECT EXISTS (SELECT FROM webhook_delivery WHERE next_attempt_at <= now()"
    " AND attempts < CAST(:max_attempts AS integer)) AS has_due"
)


def has_due(connection: Statements, max_attempts: int) -> bool:
    """Whether a delivery is due, whichever its host: a look that costs next to nothing."""
    return bool(connection.execute(HAS_DUE, {"max_attempts": max_attempts}).one().has_due)


def claim_delivery(
    connection: Connection, *, busy_hosts: Collection[str], max_attempts: int, lease_seconds: float
) -> Claimed | None:
    """Take the delivery that has been due for longest; None when none is.

    Args:
        busy_hosts: whose receivers have enough to do already.
        lease_seconds: after which it is due again, unless its end has been recorded.
    """
    now = func.now()
    due = (
        select(delivery.c.delivery_id)
        .where(
            delivery.c.next_attempt_at <= now,
            delivery.c.attempts < max_attempts,
            delivery.c.host.not_in(busy_hosts),
        )
        .order_by(delivery.c.next_attempt_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(delivery)
        .where(delivery.c.delivery_id == due)
        .values(
            attempts=delivery.c.attempts + 1,
            next_attempt_at=now + timedelta(seconds=lease_seconds),
        )
        .returning(
            delivery.c.delivery_id,
            delivery.c.run_id,
            delivery.c.url,
            delivery.c.host,
            type_coerce(delivery.c.body, LargeBinary).label("body"),
            delivery.c.attempts,
            now.label("now"),
        )
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    return Claimed(
        row.delivery_id, row.run_id, row.url, row.host, unseal(row.body), row.attempts, row.now
    )


def record_delivered(connection: Connection, claimed: Claimed, status: int | None) -> None:
    """Say that the receiver has it; its copy of the run goes."""
    _record(connection, claimed, delivered_at=func.now(), last_status=status, body=null())


def record_failed(
    connection: Connection,
    claimed: Claimed,
    *,
    status: int | None,
    error: str,
    retry_seconds: float | None,
) -> None:
    """Say that an attempt failed.

    Args:
        status: the receiver's answer, if there was one.
        retry_seconds: until the next attempt, up to a fifth more or less; None: there is none.
    """
    next_attempt_at: ColumnElement[datetime] | None = None
    if retry_seconds is not None:
        # So that what failed together does not come back together.
        spread = literal(0.8) + literal(0.4) * func.random()
        wait = func.make_interval(0, 0, 0, 0, 0, 0, literal(retry_seconds) * spread)
        next_attempt_at = func.now() + wait
    _record(
        connection,
        claimed,
        last_status=status,
        last_error=error,
        next_attempt_at=next_attempt_at,
    )


def _record(connection: Connection, claimed: Claimed, **values: object) -> None:
    """Write the end of an attempt, unless its lease ran out and somebody makes the next one."""
    statement = (
        update(delivery)
        .where(
            delivery.c.delivery_id == claimed.delivery_id,
            delivery.c.attempts == claimed.attempt,
            ~HAS_ENDED,
        )
        .values({"last_error": None, "next_attempt_at": None, **values})
    )
    connection.execute(statement)


def end_lost(connection: Connection, *, max_attempts: int, error: str, limit: int) -> None:
    """End the deliveries whose last attempt was lost with its process."""
    lost = (
        select(delivery.c.delivery_id)
        .where(delivery.c.next_attempt_at <= func.now(), delivery.c.attempts >= max_attempts)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(delivery)
        .where(delivery.c.delivery_id.in_(lost))
        .values(next_attempt_at=None, last_error=error)
    )
    connection.execute(statement)


def sweep_ended(connection: Connection, age: timedelta, limit: int) -> None:
    """Forget some of the deliveries that have ended and were owed long ago."""
    old = (
        select(delivery.c.delivery_id)
        .where(HAS_ENDED, delivery.c.created_at < func.now() - age)
        .order_by(delivery.c.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    connection.execute(delivery.delete().where(delivery.c.delivery_id.in_(old)))


def list_for_run(
    connection: Connection, thread_id: UUID, run_id: UUID, scope: Scope = None
) -> Sequence[AnyRow]:
    """The deliveries of a run, oldest first; `is_stateless`: the run itself is gone."""
    query = select(*COLUMNS, delivery.c.kept_run_id.is_(None).label("is_stateless")).where(
        delivery.c.run_id == run_id,
        delivery.c.thread_id == thread_id,
        *visible(delivery.c.metadata, scope),
    )
    return connection.execute(query.order_by(delivery.c.created_at)).all()


def list_newest(connection: Connection, *, only_failed: bool, limit: int) -> Sequence[AnyRow]:
    """The newest deliveries of all, with their run_id; or those alone that were given up."""
    query: Select[tuple[object, ...]] = select(*COLUMNS, delivery.c.run_id)
    if only_failed:
        query = query.where(HAS_ENDED, delivery.c.delivered_at.is_(None))
    return connection.execute(query.order_by(delivery.c.created_at.desc()).limit(limit)).all()
