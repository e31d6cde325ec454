"""Joining a run: what every request that meets a run already made is answered."""

from collections.abc import Iterator
from uuid import UUID

from flask import Response

from greenroom.contract.services import Services
from greenroom.database.pages import AnyRow
from greenroom.database.scope import Scope
from greenroom.queue.states import TERMINAL, RunStatus
from greenroom.runs import queries, service
from greenroom.runs.answers import JSON_HEADERS, SSE_HEADERS, disconnect_action
from greenroom.runs.schemas import JoinQuery
from greenroom.streaming.follow import (
    RunStream,
    Wanted,
    read_modes,
    read_position,
    stream_run,
    wait_for_end,
)
from greenroom.streaming.frames import make_frame
from greenroom.streaming.replay import milliseconds
from greenroom.streaming.respond import streamed
from greenroom.streaming.subscription import Subscription


def join(
    app: Services, thread_id: UUID, run_id: UUID, query: JoinQuery, scope: Scope = None
) -> Response:
    """Answer with the thread's values once the run has ended; at once when it has."""
    path = f"/threads/{thread_id}/runs/{run_id}"
    headers = {**JSON_HEADERS, "content-location": path, "location": f"{path}/join"}
    with app.relay.subscribe(thread_id, run_id) as subscription:
        row = _find(app, thread_id, run_id, scope)
        if row is None or row.status in TERMINAL:
            answer = service.answer(app.database, thread_id, run_id, scope)
            return Response(answer, headers=headers)
        subscription.is_watched = True
        return streamed(
            wait_for_end(
                subscription,
                app.config.heartbeat_seconds,
                lambda _told: service.answer(app.database, thread_id, run_id, scope),
            ),
            subscription,
            headers=headers,
            on_disconnect=disconnect_action(
                app, thread_id, run_id, wanted=query.cancel_on_disconnect
            ),
        )


def join_stream(
    app: Services,
    thread_id: UUID,
    run_id: UUID,
    query: JoinQuery,
    path: str,
    last_event_id: str | None,
    scope: Scope = None,
) -> Response:
    """Stream a run's events from now on, or after the last that the client has seen.

    Args:
        path: of the run, as the client knows it.
    """
    with app.relay.subscribe(thread_id, run_id) as subscription:
        row = _find(app, thread_id, run_id, scope)
        subscription.is_watched = row is not None and row.status not in TERMINAL
        return streamed(
            _events_of(app, subscription, row, query, last_event_id),
            subscription,
            headers={**SSE_HEADERS, "content-location": path, "location": f"{path}/stream"},
            on_disconnect=disconnect_action(
                app, thread_id, run_id, wanted=query.cancel_on_disconnect
            ),
        )


def _events_of(
    app: Services,
    subscription: Subscription,
    row: AnyRow | None,
    query: JoinQuery,
    last_event_id: str | None,
) -> Iterator[bytes]:
    """The stream that a joiner gets: the table of streaming-v1.md, section 6."""
    if row is None:
        return iter([make_frame("error", service.UNKNOWN_RUN_EVENT)])
    is_resumable = bool(row.kwargs.get("resumable"))
    try:
        position = read_position(last_event_id)
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


def _find(app: Services, thread_id: UUID, run_id: UUID, scope: Scope) -> AnyRow | None:
    with app.database.statement() as connection:
        return queries.find_run(connection, thread_id, run_id, scope)
