"""The rules of crons: what is accepted, and how it is changed."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from greenroom.assistants import queries as assistant_queries
from greenroom.auth.caller import ANYONE, Caller
from greenroom.config import Project
from greenroom.crons import queries
from greenroom.crons.plans import as_object, keep_creator, next_slot, plan_run, with_cron_id
from greenroom.crons.schemas import CronCount, CronCreate, CronPatch, CronRun, CronSearch
from greenroom.database.engine import Database
from greenroom.database.pages import AnyRow, Page
from greenroom.database.scope import Scope
from greenroom.errors import BadRequest, NotFound, ThreadNotFound
from greenroom.identifiers import new_id
from greenroom.threads.queries import thread_exists
from greenroom.webhooks.service import check_url
from greenroom.webhooks.settings import read_rules

Json = dict[str, Any]
ALL_FIELDS = tuple(column.name for column in queries.COLUMNS)


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
        return as_object(queries.create_cron(connection, fields))


def get(database: Database, cron_id: UUID, scope: Scope = None) -> Json:
    """Read a cron.

    Raises:
        NotFound: no such cron.
    """
    with database.statement() as connection:
        found = queries.find_cron(connection, cron_id, scope)
    if found is None:
        raise NotFound
    return as_object(found)


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
        changed = {**as_object(stored), **changes}
        changes["next_run_date"] = _reschedule(connection, stored, changed)
        # A cron that makes no run any more can still be switched off.
        if body.model_fields_set & CronRun.model_fields.keys():
            assistant = assistant_queries.find_for_run(connection, stored.assistant_id)
            plan_run(project, assistant, changed, changes["payload"])
        return as_object(queries.change_cron(connection, cron_id, changes))


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
    return [as_object(row) for row in page.rows], page


def count(database: Database, body: CronCount, caller: Caller = ANYONE) -> int:
    """Count crons."""
    with database.statement() as connection:
        return queries.count_crons(connection, _conditions(body, None, caller))


def check_webhook(project: Project, url: str | None) -> None:
    """Refuse an address that no run may have. Before any transaction: names are looked up.

    Raises:
        WebhookRefused: the address breaks a rule.
    """
    if url is not None:
        check_url(read_rules(project), url)


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
