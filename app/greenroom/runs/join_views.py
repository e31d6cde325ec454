"""HTTP for joining: the end of a run, its stream, and the stream of a whole thread."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request

from greenroom.contract.endpoint import endpoint
from greenroom.contract.services import Services, services
from greenroom.database.pages import AnyRow
from greenroom.errors import InvalidRequest, NotFound
from greenroom.queue.states import TERMINAL, RunStatus
from greenroom.runs import queries, service
from greenroom.runs.answers import JSON_HEADERS, SSE_HEADERS, disconnect_action
from greenroom.runs.schemas import CancelQuery, JoinQuery, Run
from greenroom.signals.sender import read_action
from greenroom.streaming.follow import (
    FROM_THE_START,
    RunStream,
    ThreadStream,
    Wanted,
    read_modes,
    read_position,
    stream_run,
    stream_thread,
    wait_for_end,
)
from greenroom.streaming.frames import EventId, make_frame, parse_event_id
from greenroom.streaming.replay import milliseconds, replay_thread
from greenroom.streaming.respond import streamed

joins = Blueprint("joins", __name__)

THREAD_MODES = frozenset({"run_modes", "lifecycle", "state_update"})


@joins.get("/threads/<thread_id>/runs/<run_id>/join")
@endpoint(query=JoinQuery, returns=Any)
def join_run(thread_id: UUID, run_id: UUID, query: JoinQuery) -> Response:
    """Answer with the thread's values once the run has ended."""
    return _join(thread_id, run_id, query)


@joins.get("/threads/<thread_id>/runs/<run_id>/stream")
@endpoint(query=JoinQuery, returns=Response)
def join_run_stream(thread_id: UUID, run_id: UUID, query: JoinQuery) -> Response:
    """Stream a run's events from now on, or after Last-Event-ID."""
    return _join_stream(thread_id, run_id, query, f"/threads/{thread_id}/runs/{run_id}")


@joins.get("/runs/<run_id>")
@endpoint(returns=Run)
def get_stateless_run(run_id: UUID) -> dict[str, Any]:
    """Get a run by its id alone."""
    return service.show(_get_anywhere(run_id))


@joins.get("/runs/<run_id>/join")
@endpoint(query=JoinQuery, returns=Any)
def join_stateless_run(run_id: UUID, query: JoinQuery) -> Response:
    """Answer with a stateless run's output, also for a while after its thread is gone."""
    with services().database.statement() as connection:
        row = queries.find_run_anywhere(connection, run_id)
    # Any thread will do for a run that has gone: its result is found by its own id.
    return _join(row.thread_id if row else run_id, run_id, query)


@joins.get("/runs/<run_id>/stream")
@endpoint(query=JoinQuery, returns=Response)
def join_stateless_run_stream(run_id: UUID, query: JoinQuery) -> Response:
    """Stream a stateless run's events: where both clients reconnect."""
    with services().database.statement() as connection:
        row = queries.find_run_anywhere(connection, run_id)
    return _join_stream(row.thread_id if row else run_id, run_id, query, f"/runs/{run_id}")


@joins.post("/runs/<run_id>/cancel")
@endpoint(query=CancelQuery, status=202)
def cancel_stateless_run(run_id: UUID, query: CancelQuery) -> None:
    """Cancel a stateless run."""
    app = services()
    row = _get_anywhere(run_id)
    action = read_action(query.action)
    service.cancel(app.database, app.signals, row.thread_id, [run_id], action)


@joins.get("/threads/<thread_id>/stream")
@endpoint(returns=Response)
def join_thread_stream(thread_id: UUID) -> Response:
    """Stream the events of all runs of a thread, one after another, until the client leaves."""
    app = services()
    modes = _thread_modes()
    last_event_id = request.headers.get("last-event-id")
    position = _thread_position(last_event_id)
    with ExitStack() as stack:
        subscription = stack.enter_context(app.relay.subscribe(thread_id))
        backlog = replay_thread(app.database, thread_id, position) if last_event_id else iter(())
        return streamed(
            stream_thread(
                subscription,
                ThreadStream(modes, position),
                app.config.heartbeat_seconds,
                backlog,
            ),
            subscription,
            stack.pop_all().close,
            headers=SSE_HEADERS,
        )


def _join(thread_id: UUID, run_id: UUID, query: JoinQuery) -> Response:
    app = services()
    path = f"/threads/{thread_id}/runs/{run_id}"
    headers = {**JSON_HEADERS, "content-location": path, "location": f"{path}/join"}
    with ExitStack() as stack:
        subscription = stack.enter_context(app.relay.subscribe(thread_id, run_id))
        row = _find(app, thread_id, run_id)
        if row is None or row.status in TERMINAL:
            return Response(service.answer(app.database, thread_id, run_id), headers=headers)
        subscription.is_watched = True
        return streamed(
            wait_for_end(
                subscription,
                app.config.heartbeat_seconds,
                lambda: service.answer(app.database, thread_id, run_id),
            ),
            subscription,
            stack.pop_all().close,
            headers=headers,
            on_disconnect=disconnect_action(
                app, thread_id, run_id, wanted=query.cancel_on_disconnect
            ),
        )


def _join_stream(thread_id: UUID, run_id: UUID, query: JoinQuery, path: str) -> Response:
    app = services()
    with ExitStack() as stack:
        subscription = stack.enter_context(app.relay.subscribe(thread_id, run_id))
        row = _find(app, thread_id, run_id)
        subscription.is_watched = row is not None and row.status not in TERMINAL
        return streamed(
            _events_of(app, subscription, row, query),
            subscription,
            stack.pop_all().close,
            headers={**SSE_HEADERS, "content-location": path, "location": f"{path}/stream"},
            on_disconnect=disconnect_action(
                app, thread_id, run_id, wanted=query.cancel_on_disconnect
            ),
        )


def _events_of(
    app: Services, subscription: Any, row: AnyRow | None, query: JoinQuery
) -> Iterator[bytes]:
    """The stream that a joiner gets: the table of streaming-v1.md, section 6."""
    if row is None:
        return iter([make_frame("error", service.UNKNOWN_RUN_EVENT)])
    is_resumable = bool(row.kwargs.get("resumable"))
    try:
        position = read_position(request.headers.get("last-event-id"))
    except ValueError:
        return iter(())
    if row.status == RunStatus.PENDING and row.started_at is None and is_resumable:
        position = position or 0
    if not is_resumable:
        position = None
    has_ended = row.status in TERMINAL
    if has_ended and position is None:
        return iter(())
    wanted = Wanted(row.run_id, read_modes(query.stream_mode), is_resumable, position)
    stream = RunStream(app.database, wanted)
    started_ms = milliseconds(row.started_at) if row.started_at else 0
    if has_ended:
        return filter(None, stream.replay(started_ms))
    wants_replay = position is not None and row.started_at is not None
    return stream_run(
        subscription,
        stream,
        app.config.heartbeat_seconds,
        started_ms if wants_replay else None,
    )


def _find(app: Services, thread_id: UUID, run_id: UUID) -> AnyRow | None:
    with app.database.statement() as connection:
        return queries.find_run(connection, thread_id, run_id)


def _get_anywhere(run_id: UUID) -> AnyRow:
    with services().database.statement() as connection:
        row = queries.find_run_anywhere(connection, run_id)
    if row is None:
        raise NotFound
    return row


def _thread_modes() -> frozenset[str]:
    """Read `stream_mode` (as clients send it) and `stream_modes`, repeated or with commas."""
    given = [*request.args.getlist("stream_mode"), *request.args.getlist("stream_modes")]
    modes = frozenset(mode for text in given for mode in text.split(",") if mode)
    if unknown := sorted(modes - THREAD_MODES):
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
