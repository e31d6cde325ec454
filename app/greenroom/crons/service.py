"""The rules of crons: what is accepted, when it fires next, and what a firing is."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from greenroom import encryption
from greenroom.assistants import queries as assistant_queries
from greenroom.auth.caller import ANYONE, Caller
from greenroom.config import Project
from greenroom.crons import queries
from greenroom.crons.schedule import next_fire
from greenroom.crons.schemas import CronCount, CronCreate, CronPatch, CronRun, CronSearch
from greenroom.database.engine import Database, is_transient
from greenroom.database.pages import AnyRow, Page
from greenroom.database.scope import Scope
from greenroom.errors import (
    AppError,
    BadRequest,
    GraphNotFound,
    InvalidRequest,
    NotFound,
    ThreadNotFound,
)
from greenroom.identifiers import new_id
from greenroom.logs import get_logger
from greenroom.queue.admission import Standing
from greenroom.runs import service as runs
from greenroom.runs.preparing import Prepared, prepare_for
from greenroom.runs.priority import Priorities
from greenroom.runs.schemas import RunCreateStateful, RunCreateStateless
from greenroom.signals.sender import Signals
from greenroom.threads.expiry import default_ttl
from greenroom.threads.queries import thread_exists
from greenroom.webhooks.service import check_url
from greenroom.webhooks.settings import read_rules

Json = dict[str, Any]
Started = tuple[Prepared, runs.Entry]
ALL_FIELDS = tuple(column.name for column in queries.COLUMNS)
FIRE_LIMIT = 50
"""Crons that one call fires at most: its thread has other things to do."""
FIRING_AGE = timedelta(hours=1)
"""How long a slot is remembered: longer than any clock is ever set back."""
SWEEP_LIMIT = 500

log = get_logger(__name__)


def create(
    database: Database,
    project: Project,
    body: CronCreate,
    thread_id: UUID | None,
    caller: Caller = ANYONE,
) -> Json:
    """Make a cron, if it would make a run now.

    Args:
        thread_id: None for a cron whose runs each make a thread.
    Raises:
        NotFound: no such assistant, or no such thread.
        InvalidRequest: the schedule, the time zone or a field of the run is wrong.
        BadRequest: both `config.configurable` and `context` are given.
    """
    check_webhook(project, body.webhook)
    cron_id = new_id()
    payload = with_cron_id(body.model_dump(exclude_unset=True), cron_id)
    fields: Json = {
        "cron_id": cron_id,
        "thread_id": thread_id,
        "schedule": body.schedule,
        "timezone": body.timezone,
        "end_time": body.end_time,
        "metadata": body.metadata or {},
        "on_run_completed": body.on_run_completed if thread_id is None else None,
        "enabled": body.enabled,
        "payload": payload,
        "user_id": caller.identity,
        "creator": keep_creator(caller),
    }
    with database.transaction() as connection:
        now = queries.read_clock(connection)
        fields["next_run_date"] = next_slot(body.schedule, body.timezone, body.end_time, now)
        assistant = assistant_queries.find_for_run(
            connection, body.assistant_id, caller.scope("assistants")
        )
        if assistant is None:
            raise NotFound(f"Assistant {body.assistant_id!r} not found")
        threads_scope = caller.scope("threads")
        if thread_id is not None and not thread_exists(connection, thread_id, threads_scope):
            raise ThreadNotFound(thread_id)
        fields["assistant_id"] = assistant.assistant_id
        plan_run(project, assistant, fields, payload)
        return _object(queries.create_cron(connection, fields))


def get(database: Database, cron_id: UUID, scope: Scope = None) -> Json:
    """Read a cron.

    Raises:
        NotFound: no such cron.
    """
    with database.statement() as connection:
        found = queries.find_cron(connection, cron_id, scope)
    if found is None:
        raise NotFound
    return _object(found)


def patch(
    database: Database, project: Project, cron_id: UUID, body: CronPatch, scope: Scope = None
) -> Json:
    """Change a cron: metadata is merged at the top level, every other field replaced.

    A slot that is due this moment is not lost unless the change is about when it fires; a cron that
    is switched on goes on from now.

    Raises:
        BadRequest: nothing is changed, or both `config.configurable` and `context` are given.
        NotFound: no such cron.
        InvalidRequest: as `create`.
    """
    if not body.model_fields_set:
        raise BadRequest("Request body cannot be empty")
    check_webhook(project, body.webhook)
    sent = body.model_dump(exclude_unset=True)
    with database.transaction() as connection:
        stored = queries.lock_cron(connection, cron_id, scope)
        if stored is None:
            raise NotFound(f"Cron '{cron_id}' not found")
        metadata = {**stored.metadata, **(body.metadata or {})}
        if body.metadata is not None:
            sent["metadata"] = metadata
        changes: Json = {
            **{key: sent[key] for key in ("schedule", "timezone", "end_time") if key in sent},
            "metadata": metadata,
            "enabled": stored.enabled if body.enabled is None else body.enabled,
            "payload": with_cron_id(_merge_payload(stored.payload, sent), cron_id),
        }
        if stored.thread_id is None and body.on_run_completed is not None:
            changes["on_run_completed"] = body.on_run_completed
        changed = {**_object(stored), **changes}
        changes["next_run_date"] = _reschedule(connection, stored, changed)
        # A cron that makes no run any more can still be switched off.
        if body.model_fields_set & CronRun.model_fields.keys():
            assistant = assistant_queries.find_for_run(connection, stored.assistant_id)
            plan_run(project, assistant, changed, changes["payload"])
        return _object(queries.change_cron(connection, cron_id, changes))


def delete(database: Database, cron_id: UUID, scope: Scope = None) -> None:
    """Remove a cron; its runs stay.

    Raises:
        NotFound: no such cron.
    """
    with database.statement() as connection:
        if not queries.delete_cron(connection, cron_id, scope):
            raise NotFound


def search(
    database: Database, body: CronSearch, caller: Caller = ANYONE
) -> tuple[list[Json], Page]:
    """Find crons, and tell the page that they are."""
    with database.statement() as connection:
        page = queries.search_crons(
            connection,
            _conditions(body, body.enabled, caller),
            fields=frozenset(body.select or ALL_FIELDS),
            sort_by=body.sort_by,
            is_descending=body.sort_order == "desc",
            limit=body.limit,
            offset=body.offset,
        )
    return [_object(row) for row in page.rows], page


def count(database: Database, body: CronCount, caller: Caller = ANYONE) -> int:
    """Count crons."""
    with database.statement() as connection:
        return queries.count_crons(connection, _conditions(body, None, caller))


def fire_due(
    database: Database, signals: Signals, project: Project, priorities: Priorities | None = None
) -> int:
    """Start a run for each cron that is due by Postgres's clock, once however many workers ask.

    A cron that was due several times while nobody looked fires once. Each is a transaction of its
    own: whatever is wrong with one, the others fire.

    Args:
        priorities: who is asked about the order of runs; None: nobody.
    Returns:
        How many runs were started; FIRE_LIMIT at most, so that some may still be due.
    Raises:
        DatabaseUnavailable: the rest fires at the next call.
    """
    with database.statement() as connection:
        due = queries.list_due(connection, FIRE_LIMIT)
    fired = 0
    for cron_id in due:
        standing = None
        refusal = foresee_members(database, cron_id)
        if priorities is not None and refusal is None:
            try:
                standing = find_standing(database, project, cron_id, priorities)
            except AppError as error:
                # The slot counts more than its place in the queue; nor shall others wait for it.
                log.warning("cron fires unasked", cron_id=str(cron_id), error=str(error))
                priorities = None
        with database.transaction() as connection:
            started = fire(connection, project, cron_id, standing, refusal)
        if started is not None:
            prepared, entry = started
            log.info("cron fired", cron_id=str(cron_id), run_id=str(prepared.new.run_id))
            runs.announce_entry(signals, prepared, entry)
            fired += 1
    if due:
        with database.statement() as connection:
            queries.sweep_firings(connection, FIRING_AGE, SWEEP_LIMIT)
    return fired


def find_next_due(database: Database) -> float | None:
    """In how many seconds a cron is due: 0 or less when one is, None when none will be."""
    with database.statement() as connection:
        return queries.find_next_due(connection)


def foresee_members(database: Database, cron_id: UUID) -> AppError | None:
    """Have the owner's handler asked about a due cron's metadata, with nothing locked.

    Returns:
        Why they cannot be written; None: they can, or there is no handler.
    Raises:
        DatabaseUnavailable: they cannot be read.
    """
    if not encryption.has_handler():
        return None
    try:
        with database.statement() as connection:
            found = queries.find_due_metadata(connection, cron_id)
        for each in found or ():
            encryption.choose(each)
    except (encryption.HandlerFailed, encryption.WrongKey) as error:
        return error
    return None


def find_standing(
    database: Database, project: Project, cron_id: UUID, priorities: Priorities
) -> Standing | None:
    """Ask for the thread of a cron that is about to fire, with nothing locked.

    Raises:
        AppError: nobody can be asked, or there is no run to ask about.
    """
    with database.statement() as connection:
        cron = queries.find_due_cron(connection, cron_id)
        if cron is None:
            return None
        prepared = plan_due(connection, project, cron)
    return priorities.settle(prepared, cron_id).new.standing


def fire(
    connection: Connection,
    project: Project,
    cron_id: UUID,
    standing: Standing | None = None,
    refusal: AppError | None = None,
) -> Started | None:
    """Use up a cron's slot: put it off to the next one after now, and let its run in.

    Wants a transaction, and `runs.announce_entry` after it.

    Args:
        refusal: why there can be no run, if that is known.
    Returns:
        None when there is no run: somebody else fires it, its end has come, or the run was refused
        and the slot is skipped.
    """
    cron = queries.lock_due_cron(connection, cron_id)
    if cron is None:
        return None
    if cron.thread_id is not None and not queries.try_lock_thread(connection, cron.thread_id):
        # Held by a request or another worker for the moment: the cron stays due.
        return None
    slot = cron.next_run_date
    fields = {"cron_id": str(cron_id), "slot": slot.isoformat()}
    try:
        following = next_slot(cron.schedule, cron.timezone, cron.end_time, cron.now)
    except InvalidRequest as error:
        log.error("cron stopped", **fields, error=str(error))  # noqa: TRY400 (says it all)
        following = None
    queries.put_off(connection, cron_id, following)
    if cron.end_time is not None and cron.now >= cron.end_time:
        log.info("cron ended", **fields)
        return None
    if not queries.use_slot(connection, cron_id, slot):
        log.warning("cron slot used before", **fields)
        return None
    if refusal is not None:
        log.warning("cron slot skipped", **fields, error=repr(refusal))
        return None
    try:
        with connection.begin_nested():
            return start_run(connection, project, cron, standing)
    except AppError as error:
        log.warning("cron slot skipped", **fields, error=repr(error))
        return None
    except Exception as error:
        if isinstance(error, DBAPIError) and is_transient(error):
            raise
        # The edge of one cron: what it holds must stop neither the others nor this worker.
        log.exception("cron slot skipped", **fields)
        return None


def start_run(
    connection: Connection, project: Project, cron: AnyRow, standing: Standing | None = None
) -> Started:
    """Let in the run of a cron that fires.

    Raises:
        NotFound, GraphNotFound: the assistant, its graph or the thread has gone.
        ThreadBusy: strategy reject on a busy thread.
        InvalidRequest, BadRequest, ValueError: the payload makes no run.
    """
    prepared = plan_due(connection, project, cron)
    prepared = replace(prepared, new=replace(prepared.new, standing=standing))
    return prepared, runs.enter(connection, prepared)


def plan_due(connection: Connection, project: Project, cron: AnyRow) -> Prepared:
    """Work out the run of a cron that fires.

    Raises: as `plan_run`.
    """
    assistant = assistant_queries.find_for_run(connection, cron.assistant_id)
    payload, creator = queries.read_payload(connection, cron.cron_id)
    return plan_run(project, assistant, _object(cron), payload, read_creator(creator))


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
    return prepared if prepared.is_temporary else replace(prepared, ttl=default_ttl(project))


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


def check_webhook(project: Project, url: str | None) -> None:
    """Refuse an address that no run may have. Before any transaction: names are looked up.

    Raises:
        WebhookRefused: the address breaks a rule.
    """
    if url is not None:
        check_url(read_rules(project), url)


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


def _merge_payload(stored: Json, sent: Json) -> Json:
    """Replace what a change names. Of configurable and context, the one that is named stays."""
    merged = {**stored, **sent}
    if (sent.get("config") or {}).get("configurable") and "context" not in sent:
        merged.pop("context", None)
    if sent.get("context") and "config" not in sent:
        merged["config"] = {k: v for k, v in stored["config"].items() if k != "configurable"}
    return merged


def _reschedule(connection: Connection, stored: AnyRow, changed: Json) -> datetime | None:
    """When a changed cron fires next."""
    schedule, timezone, end_time = (changed[key] for key in ("schedule", "timezone", "end_time"))
    is_same = (schedule, timezone) == (stored.schedule, stored.timezone)
    is_switched_on = changed["enabled"] and not stored.enabled
    if not is_same or is_switched_on or stored.next_run_date is None:
        return next_slot(schedule, timezone, end_time, queries.read_clock(connection))
    slot: datetime = stored.next_run_date
    return slot if end_time is None or slot < end_time else None


def _conditions(
    body: CronCount,
    enabled: bool | None,  # noqa: FBT001 (a filter)
    caller: Caller,
) -> list[Any]:
    return queries.conditions(
        assistant_id=body.assistant_id,
        thread_id=body.thread_id,
        metadata=body.metadata,
        enabled=enabled,
        scope=caller.scope("crons"),
        threads_scope=caller.scope("threads"),
    )


def _object(row: AnyRow) -> Json:
    return dict(row._mapping)  # noqa: SLF001 (SQLAlchemy's public name)
