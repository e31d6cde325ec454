"""Crons whose time has come: each uses up its slot, and its run comes in."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from greenroom import encryption
from greenroom.config import Project
from greenroom.crons import queries
from greenroom.crons.plans import next_slot, plan_due
from greenroom.database.engine import Database, is_transient
from greenroom.database.pages import AnyRow
from greenroom.errors import AppError, InvalidRequest
from greenroom.logs import get_logger
from greenroom.queue.admission import Standing
from greenroom.runs import service as runs
from greenroom.runs.preparing import Prepared
from greenroom.runs.priority import Priorities
from greenroom.signals.sender import Signals

Started = tuple[Prepared, runs.Entry]
FIRE_LIMIT = 50
"""Crons that one call fires at most: its thread has other things to do."""
FIRING_AGE = timedelta(hours=1)
"""How long a slot is remembered: longer than any clock is ever set back."""
SWEEP_LIMIT = 500

log = get_logger(__name__)


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
    prepared = prepared._replace(new=prepared.new._replace(standing=standing))
    return prepared, runs.enter(connection, prepared)
