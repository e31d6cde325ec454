"""HTTP for runs: create and forget, wait, stream; list, get, cancel, delete (http.md, 3 and 4)."""

from typing import Any
from uuid import UUID, uuid4

from flask import Blueprint, Response

from greenroom.auth.questions import (
    CANCEL_RUN,
    CANCEL_RUNS,
    CREATE_BATCH,
    CREATE_RUN,
    CREATE_RUN_AND_WAIT,
    READ_THREAD,
    ask,
)
from greenroom.contract.api import current_request
from greenroom.contract.body import read_body
from greenroom.contract.endpoint import Reply, endpoint
from greenroom.contract.guard import caller, scope
from greenroom.contract.services import services
from greenroom.queue.states import CancelAction
from greenroom.runs import service
from greenroom.runs.answers import JSON_HEADERS, SSE_HEADERS, disconnect_action
from greenroom.runs.idempotency import Key, RepeatedRequestError, read_key
from greenroom.runs.joins import join, join_stream
from greenroom.runs.preparing import prepare
from greenroom.runs.schemas import (
    ActionQuery,
    CancelQuery,
    JoinQuery,
    Run,
    RunBatch,
    RunCreateStateful,
    RunCreateStateless,
    RunsCancel,
    RunsQuery,
)
from greenroom.signals.sender import read_action
from greenroom.streaming.follow import RunStream, Wanted, stream_run, wait_for_end
from greenroom.streaming.respond import streamed

runs = Blueprint("runs", __name__)

LIST_RUNS = READ_THREAD + ask("threads", "search", metadata={}, status=None)
DELETE_RUN = ask("threads", "delete")

IDEMPOTENT = {"Idempotency-Key": "Of two requests with the same key, one makes the run."}


@runs.post("/threads/<thread_id>/runs")
@endpoint(access=CREATE_RUN, body=RunCreateStateful, returns=Run, headers=IDEMPOTENT)
def create_run(thread_id: UUID, body: RunCreateStateful) -> Reply:
    """Create a background run."""
    return _create(thread_id, body)


@runs.post("/runs")
@endpoint(access=CREATE_RUN, body=RunCreateStateless, returns=Run, headers=IDEMPOTENT)
def create_stateless_run(body: RunCreateStateless) -> Reply:
    """Create a background run that makes its own thread."""
    return _create(None, body)


@runs.post("/runs/batch")
@endpoint(access=CREATE_BATCH, body=RunBatch, returns=list[Run])
def create_batch(body: list[RunCreateStateless]) -> list[dict[str, Any]]:
    """Create several stateless runs, all or none."""
    app = services()
    prepared = [
        prepare(
            app.assistants,
            app.config.project,
            one,
            None,
            caller=caller(),
            priorities=app.priorities,
        )
        for one in body
    ]
    return service.admit_all(app.database, app.signals, prepared)


@runs.post("/threads/<thread_id>/runs/wait")
@endpoint(access=CREATE_RUN_AND_WAIT, body=RunCreateStateful, returns=Any, headers=IDEMPOTENT)
def create_and_wait(thread_id: UUID, body: RunCreateStateful) -> Response:
    """Create a run and answer with the thread's values once it has ended."""
    return _create_and_wait(thread_id, body)


@runs.post("/runs/wait")
@endpoint(access=CREATE_RUN, body=RunCreateStateless, returns=Any, headers=IDEMPOTENT)
def create_stateless_and_wait(body: RunCreateStateless) -> Response:
    """Create a run on a thread of its own and answer with its output."""
    return _create_and_wait(None, body)


@runs.post("/threads/<thread_id>/runs/stream")
@endpoint(access=CREATE_RUN, body=RunCreateStateful, returns=Response, headers=IDEMPOTENT)
def create_and_stream(thread_id: UUID, body: RunCreateStateful) -> Response:
    """Create a run and stream its events."""
    return _create_and_stream(thread_id, body)


@runs.post("/runs/stream")
@endpoint(access=CREATE_RUN, body=RunCreateStateless, returns=Response, headers=IDEMPOTENT)
def create_stateless_and_stream(body: RunCreateStateless) -> Response:
    """Create a run on a thread of its own and stream its events."""
    return _create_and_stream(None, body)


@runs.get("/threads/<thread_id>/runs")
@endpoint(access=LIST_RUNS, query=RunsQuery, returns=list[Run])
def list_runs(thread_id: UUID, query: RunsQuery) -> list[dict[str, Any]]:
    """List a thread's runs, newest first."""
    return service.list_runs(
        services().database,
        thread_id,
        status=query.status,
        limit=query.limit,
        offset=query.offset,
        fields=query.select,
        scope=scope("threads"),
    )


@runs.get("/threads/<thread_id>/runs/<run_id>")
@endpoint(access=READ_THREAD, returns=Run)
def get_run(thread_id: UUID, run_id: UUID) -> dict[str, Any]:
    """Get a run."""
    return service.get_run(services().database, thread_id, run_id, scope("threads"))


@runs.delete("/threads/<thread_id>/runs/<run_id>")
@endpoint(access=DELETE_RUN, status=204)
def delete_run(thread_id: UUID, run_id: UUID) -> None:
    """Delete a run in any status, with its checkpoints."""
    app = services()
    service.remove(app.database, app.signals, thread_id, run_id, scope("threads"))


@runs.post("/threads/<thread_id>/runs/<run_id>/cancel")
@endpoint(access=CANCEL_RUN, query=CancelQuery, status=202, also=(200,))
def cancel_run(thread_id: UUID, run_id: UUID, query: CancelQuery) -> Response | None:
    """Cancel a run; with `wait`, answer when it has ended."""
    app = services()
    action = read_action(query.action)
    if not query.wait:
        service.cancel(app.database, app.signals, thread_id, [run_id], action, scope("threads"))
        return None
    return _cancel_and_wait(thread_id, run_id, action)


@runs.post("/runs/cancel")
@endpoint(access=CANCEL_RUNS, body=RunsCancel, query=ActionQuery, status=204)
def cancel_many(body: RunsCancel, query: ActionQuery) -> None:
    """Cancel runs of one thread by id, or every run of a status."""
    app = services()
    action = read_action(query.action)
    if body.status is not None:
        service.cancel_by_status(app.database, app.signals, body.status, action, scope("threads"))
    elif body.thread_id is not None and body.run_ids is not None:
        service.cancel(
            app.database, app.signals, body.thread_id, body.run_ids, action, scope("threads")
        )


def _create(thread_id: UUID | None, body: RunCreateStateful | RunCreateStateless) -> Reply:
    app = services()
    prepared = prepare(
        app.assistants,
        app.config.project,
        body,
        thread_id,
        caller=caller(),
        priorities=app.priorities,
        is_heard=thread_id is not None and app.relay.is_read(thread_id),
    )
    try:
        run = service.admit(app.database, app.signals, prepared, idempotency_key())
    except RepeatedRequestError as repeated:
        run = repeated.repeat.response
    path = run_path(run["thread_id"], run["run_id"], is_stateless=prepared.is_stateless)
    return Reply(run, headers={"content-location": path})


def _create_and_wait(
    thread_id: UUID | None, body: RunCreateStateful | RunCreateStateless
) -> Response:
    app = services()
    target = thread_id or uuid4()
    is_heard = app.relay.is_read(target)
    with app.relay.subscribe_soon(target) as subscription:
        prepared = prepare(
            app.assistants,
            app.config.project,
            body,
            thread_id,
            target,
            caller(),
            app.priorities,
            is_heard=is_heard,
        )
        run_id = subscription.run_id = prepared.new.run_id
        path = f"/threads/{target}/runs/{run_id}"
        app.relay.confirm(subscription)
        try:
            service.admit(app.database, app.signals, prepared, idempotency_key())
        except RepeatedRequestError as repeated:
            found = repeated.repeat
            return join(app, found.thread_id, found.run_id, JoinQuery(), scope("threads"))
        subscription.is_watched = True
        chunks = wait_for_end(
            subscription,
            app.config.heartbeat_seconds,
            lambda told: told or service.answer(app.database, target, run_id),
        )
        return streamed(
            chunks,
            subscription,
            headers={**JSON_HEADERS, "content-location": path, "location": f"{path}/join"},
            on_disconnect=disconnect_action(
                app, target, run_id, wanted=body.on_disconnect == "cancel"
            ),
        )


def _create_and_stream(
    thread_id: UUID | None, body: RunCreateStateful | RunCreateStateless
) -> Response:
    app = services()
    target = thread_id or uuid4()
    with app.relay.subscribe_soon(target) as subscription:
        prepared = prepare(
            app.assistants,
            app.config.project,
            body,
            thread_id,
            target,
            caller(),
            app.priorities,
            is_heard=True,
        )
        run_id = subscription.run_id = prepared.new.run_id
        path = run_path(target, run_id, is_stateless=prepared.is_stateless)
        app.relay.confirm(subscription)
        try:
            service.admit(app.database, app.signals, prepared, idempotency_key())
        except RepeatedRequestError as repeated:
            found = repeated.repeat
            path = run_path(found.thread_id, found.run_id, is_stateless=prepared.is_stateless)
            return join_stream(
                app, found.thread_id, found.run_id, JoinQuery(), path, "-1", scope("threads")
            )
        subscription.is_watched = True
        wanted = Wanted(run_id, is_resumable=body.stream_resumable, from_seq=0)
        chunks = stream_run(
            subscription, RunStream(app.database, wanted), app.config.heartbeat_seconds
        )
        return streamed(
            chunks,
            subscription,
            headers={**SSE_HEADERS, "content-location": path, "location": f"{path}/stream"},
            on_disconnect=disconnect_action(
                app, target, run_id, wanted=body.on_disconnect == "cancel"
            ),
        )


def _cancel_and_wait(thread_id: UUID, run_id: UUID, action: CancelAction) -> Response:
    app = services()
    path = f"/threads/{thread_id}/runs/{run_id}"
    with app.relay.subscribe(thread_id, run_id) as subscription:
        service.cancel(app.database, app.signals, thread_id, [run_id], action, scope("threads"))
        subscription.is_watched = True
        return streamed(
            wait_for_end(subscription, app.config.heartbeat_seconds, lambda _told: b"{}"),
            subscription,
            headers={**JSON_HEADERS, "content-location": path, "location": f"{path}/join"},
        )


def run_path(thread_id: UUID | str, run_id: UUID | str, *, is_stateless: bool) -> str:
    """Where clients find the run: stateless ones are named without their thread (http.md 4)."""
    return f"/runs/{run_id}" if is_stateless else f"/threads/{thread_id}/runs/{run_id}"


def idempotency_key() -> Key | None:
    """The key of this request, if it has one."""
    asked = current_request()
    header = asked.environ.get("HTTP_IDEMPOTENCY_KEY")
    if not header:
        return None
    return read_key(header, asked.path, read_body(), caller().identity)
