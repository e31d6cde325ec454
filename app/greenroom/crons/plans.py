"""What a cron makes: the run of a slot, as whom it runs, and the slot after it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Connection

from greenroom.assistants import queries as assistant_queries
from greenroom.auth.caller import ANYONE, Caller
from greenroom.config import Project
from greenroom.crons import queries
from greenroom.crons.schedule import next_fire
from greenroom.crons.schemas import CronRun
from greenroom.database.pages import AnyRow
from greenroom.errors import GraphNotFound, InvalidRequest, NotFound
from greenroom.runs.preparing import Prepared, prepare_for
from greenroom.runs.schemas import RunCreateStateful, RunCreateStateless
from greenroom.threads.expiry import default_ttl

Json = dict[str, Any]


def plan_due(connection: Connection, project: Project, cron: AnyRow) -> Prepared:
    """Work out the run of a cron that fires.

    Raises: as `plan_run`.
    """
    assistant = assistant_queries.find_for_run(connection, cron.assistant_id)
    payload, creator = queries.read_payload(connection, cron.cron_id)
    return plan_run(project, assistant, as_object(cron), payload, read_creator(creator))


def plan_run(
    project: Project,
    assistant: assistant_queries.ForRun | None,
    cron: Mapping[str, Any],
    payload: Json,
    caller: Caller = ANYONE,
) -> Prepared:
    """Work out the run that a cron makes.

    Args:
        cron: cron_id, thread_id, metadata, on_run_completed.
        caller: as whom it runs: its creator.
    Raises:
        NotFound: there is no assistant.
        GraphNotFound: langgraph.json has lost its graph.
        InvalidRequest: a field of the payload makes no run.
        BadRequest: both `config.configurable` and `context` are given.
    """
    if assistant is None:
        raise NotFound("Thread or assistant not found.")
    if assistant.graph_id not in project.graphs:
        raise GraphNotFound(assistant.graph_id, list(project.graphs))
    fields = {key: payload[key] for key in CronRun.model_fields if key in payload}
    fields |= {
        "assistant_id": str(assistant.assistant_id),
        "metadata": cron["metadata"],
        "config": without_cron_id(payload["config"]),
    }
    try:
        body = (
            RunCreateStateful(**fields)
            if cron["thread_id"] is not None
            else RunCreateStateless(**fields, on_completion=cron["on_run_completed"])
        )
    except ValidationError as error:
        raise InvalidRequest(str(error)) from error
    origin = {"cron_id": str(cron["cron_id"])}
    prepared = prepare_for(assistant, body, cron["thread_id"], origin=origin, caller=caller)
    return prepared if prepared.is_temporary else prepared._replace(ttl=default_ttl(project))


def keep_creator(caller: Caller) -> Json | None:
    """Who makes a cron, to be stored beside it; None where nobody is asked who they are."""
    if caller.user is None:
        return None
    return {"user": caller.user, "threads": caller.filters.get("threads")}


def read_creator(stored: Json | None) -> Caller:
    """As whom a cron's runs run. Its thread must still be one that the creator may use."""
    if stored is None:
        return ANYONE
    user, threads = stored["user"], stored["threads"]
    filters = {} if threads is None else {"threads": threads}
    return Caller(user["identity"], user, tuple(user["permissions"]), filters)


def next_slot(
    schedule: str, timezone: str | None, end_time: datetime | None, now: datetime
) -> datetime | None:
    """The first slot after now; None when the end comes before it.

    Raises:
        InvalidRequest: no schedule, or no time zone.
    """
    slot = next_fire(schedule, timezone, now)
    return slot if end_time is None or slot < end_time else None


def with_cron_id(payload: Json, cron_id: UUID) -> Json:
    """A payload as it is stored: `config.configurable.cron_id` tells whose it is."""
    config = payload.get("config") or {}
    configurable = {**(config.get("configurable") or {}), "cron_id": str(cron_id)}
    return {**payload, "config": {**config, "configurable": configurable}}


def without_cron_id(config: Json) -> Json:
    """A payload's config as the client meant it: one without `configurable` may have a context."""
    configurable = {k: v for k, v in config["configurable"].items() if k != "cron_id"}
    return {**config, "configurable": configurable}


def as_object(row: AnyRow) -> Json:
    """A cron as clients see it."""
    return dict(row._mapping)  # noqa: SLF001 (SQLAlchemy's public name)
