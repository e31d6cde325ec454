"""HTTP for joining: the end of a run, its stream, and the stream of a whole thread."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request

from greenroom.auth.questions import CANCEL_RUN, READ_THREAD
from greenroom.contract.endpoint import endpoint
from greenroom.contract.guard import scope
from greenroom.contract.services import Services, services
from greenroom.database.pages import AnyRow
from greenroom.database.scope import Scope
from greenroom.errors import InvalidRequest, NotFound, ThreadNotFound
from greenroom.runs import queries, service
from greenroom.runs.answers import SSE_HEADERS
from greenroom.runs.joins import join, join_stream
from greenroom.runs.schemas import (
    THREAD_MODES,
    ActionQuery,
    JoinQuery,
    Run,
    ThreadStreamQuery,
)
from greenroom.signals.sender import read_action
from greenroom.streaming.follow import (
    FROM_THE_START,
    ThreadStream,
    stream_thread,
)
from greenroom.streaming.frames import EventId, parse_event_id
from greenroom.streaming.replay import replay_thread
from greenroom.streaming.respond import streamed
from greenroom.threads.queries import thread_exists

joins = Blueprint("joins", __name__)


@joins.get("/threads/<thread_id>/runs/<run_id>/join")
@endpoint(access=READ_THREAD, query=JoinQuery, returns=Any)
def join_run(thread_id: UUID, run_id: UUID, query: JoinQuery) -> Response:
    """Answer with the thread's values once the run has ended."""
    return join(services(), thread_id, run_id, query, scope("threads"))


@joins.get("/threads/<thread_id>/runs/<run_id>/stream")
@endpoint(access=READ_THREAD, query=JoinQuery, returns=Response)
def join_run_stream(thread_id: UUID, run_id: UUID, query: JoinQuery) -> Response:
    """Stream a run's events from now on, or after Last-Event-ID."""
    path = f"/threads/{thread_id}/runs/{run_id}"
    return join_stream(
        services(), thread_id, run_id, query, path, _last_event_id(), scope("threads")
    )


@joins.get("/runs/<run_id>")
@endpoint(access=READ_THREAD, returns=Run)
def get_stateless_run(run_id: UUID) -> dict[str, Any]:
    """Get a run by its id alone."""
    return service.show(_get_anywhere(run_id))


@joins.get("/runs/<run_id>/join")
@endpoint(access=READ_THREAD, query=JoinQuery, returns=Any)
def join_stateless_run(run_id: UUID, query: JoinQuery) -> Response:
    """Answer with a stateless run's output, also for a while after its thread is gone."""
    with services().database.statement() as connection:
        row = queries.find_run_anywhere(connection, run_id, scope("threads"))
    # Any thread will do for a run that has gone: its result is found by its own id.
    return join(services(), row.thread_id if row else run_id, run_id, query, scope("threads"))


@joins.get("/runs/<run_id>/stream")
@endpoint(access=READ_THREAD, query=JoinQuery, returns=Response)
def join_stateless_run_stream(run_id: UUID, query: JoinQuery) -> Response:
    """Stream a stateless run's events: where both clients reconnect."""
    with services().database.statement() as connection:
        row = queries.find_run_anywhere(connection, run_id, scope("threads"))
    thread_id = row.thread_id if row else run_id
    path = f"/runs/{run_id}"
    return join_stream(
        services(), thread_id, run_id, query, path, _last_event_id(), scope("threads")
    )


@joins.post("/runs/<run_id>/cancel")
@endpoint(access=CANCEL_RUN, query=ActionQuery, status=202)
def cancel_stateless_run(run_id: UUID, query: ActionQuery) -> None:
    """Cancel a stateless run."""
    app = services()
    row = _get_anywhere(run_id)
    action = read_action(query.action)
    service.cancel(app.database, app.signals, row.thread_id, [run_id], action, scope("threads"))


@joins.get("/threads/<thread_id>/stream")
@endpoint(access=READ_THREAD, query=ThreadStreamQuery, returns=Response)
def join_thread_stream(thread_id: UUID, query: ThreadStreamQuery) -> Response:
    """Stream the events of all runs of a thread, one after another, until the client leaves."""
    app = services()
    modes = _thread_modes(query)
    last_event_id = _last_event_id()
    position = _thread_position(last_event_id)
    require_thread(app, thread_id, scope("threads"))
    with app.relay.subscribe(thread_id) as subscription:
        backlog = replay_thread(app.database, thread_id, position) if last_event_id else iter(())
        return streamed(
            stream_thread(
                subscription,
                ThreadStream(modes, position),
                app.config.heartbeat_seconds,
                backlog,
            ),
            subscription,
            headers=SSE_HEADERS,
        )


def require_thread(app: Services, thread_id: UUID, seen: Scope) -> None:
    """Refuse to stream what the caller may not see. Without a filter a thread need not exist yet.

    Raises:
        ThreadNotFound: there is none that the caller may see.
    """
    if seen is None:
        return
    with app.database.statement() as connection:
        if not thread_exists(connection, thread_id, seen):
            raise ThreadNotFound(thread_id)


def _get_anywhere(run_id: UUID) -> AnyRow:
    with services().database.statement() as connection:
        row = queries.find_run_anywhere(connection, run_id, scope("threads"))
    if row is None:
        raise NotFound
    return row


def _thread_modes(query: ThreadStreamQuery) -> frozenset[str]:
    """Read `stream_mode` (as clients send it) and `stream_modes`, repeated or with commas."""
    given = [*query.stream_mode, *query.stream_modes]
    modes = frozenset(mode for text in given for mode in text.split(",") if mode)
    if unknown := sorted(modes.difference(THREAD_MODES)):
        raise InvalidRequest(f"Invalid stream mode: {unknown[0]}")
    return modes or frozenset({"run_modes"})


def _thread_position(last_event_id: str | None) -> EventId:
    """The first event that the client has not seen (streaming-v1.md, section 7)."""
    if last_event_id is None or last_event_id == FROM_THE_START[-1]:
        return EventId(0, 0)
    seen = parse_event_id(last_event_id)
    if seen is None:
        raise InvalidRequest("Invalid last-event-id: must be - or <milliseconds>-<number>")
    return EventId(seen.milliseconds, seen.number + 1)


def _last_event_id() -> str | None:
    """Where the client stopped reading."""
    return request.headers.get("last-event-id")
