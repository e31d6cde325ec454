"""Crons on the wire (http.md, section 5)."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator

from greenroom.contract.fields import Id, Limit, Maybe, Object, Offset, WireModel
from greenroom.runs.schemas import MultitaskStrategy, Nodes, RunConfig, StreamMode

CronField = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "on_run_completed",
    "end_time",
    "schedule",
    "timezone",
    "created_at",
    "updated_at",
    "user_id",
    "payload",
    "next_run_date",
    "metadata",
    "enabled",
]
OnRunCompleted = Literal["delete", "keep"]
END_YEARS = range(1970, 9000)
"""Beyond them a time zone's offset may lead out of the calendar."""


def parse_instant(value: Any) -> datetime:
    """Read an ISO 8601 time; one without an offset is UTC.

    Raises:
        ValueError: it is not one, or out of range.
    """
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ValueError("must be an ISO 8601 time") from error
    if moment.year not in END_YEARS:
        raise ValueError("must lie between the years 1970 and 9000")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Instant = Annotated[datetime, BeforeValidator(parse_instant)]


class Cron(WireModel):
    """A cron as clients read it."""

    cron_id: UUID
    assistant_id: UUID
    thread_id: UUID | None
    user_id: str
    end_time: datetime | None
    schedule: str
    timezone: str | None
    payload: Object
    next_run_date: datetime | None
    metadata: Object
    on_run_completed: OnRunCompleted | None
    enabled: bool
    created_at: datetime
    updated_at: datetime


class CronRun(WireModel):
    """What each run of a cron is to be; None is the run's own default."""

    input: Any = None
    metadata: Maybe[Object] = None
    config: Maybe[RunConfig] = None
    context: Maybe[Object] = None
    webhook: Maybe[str] = None
    interrupt_before: Maybe[Nodes] = None
    interrupt_after: Maybe[Nodes] = None
    multitask_strategy: Maybe[MultitaskStrategy] = None
    stream_mode: Maybe[list[StreamMode] | StreamMode] = None
    stream_subgraphs: Maybe[bool] = None
    stream_resumable: Maybe[bool] = None
    checkpoint_during: Maybe[bool] = None
    durability: Maybe[Literal["sync", "async", "exit"]] = None


class CronCreate(CronRun):
    """A new cron."""

    assistant_id: str
    schedule: str
    timezone: Maybe[str] = None
    end_time: Maybe[Instant] = None
    on_run_completed: OnRunCompleted = "delete"
    """Of a cron without a thread; clients may send it for a thread, too, where it says nothing."""
    enabled: bool = True


class CronPatch(CronRun):
    """What changes; a field that is absent is left as it was. A null `end_time` takes it away."""

    schedule: Maybe[str] = None
    timezone: Maybe[str] = None
    end_time: Instant | None = None
    on_run_completed: Maybe[OnRunCompleted] = None
    enabled: Maybe[bool] = None


class CronCount(WireModel):
    """Which crons; None does not filter."""

    assistant_id: Maybe[Id] = None
    thread_id: Maybe[Id] = None
    metadata: Maybe[Object] = None


class CronSearch(CronCount):
    """Which crons, in which order, and what of them."""

    enabled: Maybe[bool] = None
    limit: Limit = 10
    offset: Offset = 0
    sort_by: Literal[
        "cron_id",
        "assistant_id",
        "thread_id",
        "next_run_date",
        "end_time",
        "created_at",
        "updated_at",
    ] = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: Maybe[list[CronField]] = None
