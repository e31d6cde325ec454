"""HTTP for the protocol of generation 2: one command, or a stream of events (streaming-v2.md)."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, Response

from greenroom.auth.caller import Caller
from greenroom.auth.questions import COMMAND, CREATE_RUN, READ_THREAD
from greenroom.contract.endpoint import Reply, endpoint, read_json
from greenroom.contract.guard import caller
from greenroom.contract.services import Services, services
from greenroom.errors import BadRequest, InvalidRequest, ThreadNotFound
from greenroom.protocol.errors import CommandError, InvalidArgument
from greenroom.protocol.schemas import (
    CommandAnswer,
    CommandRequest,
    EventStreamRequest,
    failure,
    is_command,
    read_command,
    read_count,
    read_filter,
)
from greenroom.protocol.service import Commands, Permit
from greenroom.protocol.socket import serve_socket
from greenroom.runs.answers import SSE_HEADERS
from greenroom.runs.schemas import RunCreateStateful
from greenroom.streaming.respond import streamed
from greenroom.streaming.thread_events import ThreadEvents, stream_events

protocol = Blueprint("protocol", __name__)


@protocol.post("/threads/<thread_id>/commands")
@endpoint(access=COMMAND, documents=CommandRequest, returns=CommandAnswer)
def carry_out(thread_id: UUID) -> Reply:
    """Carry out a command: start a run, answer an interrupt.

    A command that is refused is answered with 200, `"type": "error"` and a code.
    """
    given = read_body()
    command_id = given.get("id") if isinstance(given, dict) else None
    try:
        answer = commands_of(services()).carry_out(thread_id, read_command(given))
    except InvalidArgument as error:
        answer = failure(command_id, error.code, str(error))
        if is_command(given):
            return Reply(answer)
        return Reply({**answer, "detail": str(error)}, 400)
    except CommandError as error:
        return Reply(failure(command_id, error.code, str(error)))
    return Reply(answer)


@protocol.post("/threads/<thread_id>/stream/events")
@endpoint(access=READ_THREAD, documents=EventStreamRequest, returns=Response)
def stream_thread_events(thread_id: UUID) -> Response:
    """Stream the events of all runs of a thread, kept ones first, until the client leaves.

    The thread need not exist yet.
    """
    app = services()
    body = read_body()
    wanted = read_filter(body)
    commands = commands_of(app)
    if not commands.sees(thread_id):
        return Response(b"", headers=SSE_HEADERS)
    with app.relay.subscribe(thread_id, to_numbered=True) as subscription:
        commands.open_events(thread_id)
        events = ThreadEvents(app.database, subscription, wanted.wants)
        events.next_seq = (read_count(body, "since") or 0) + 1
        return streamed(
            stream_events(subscription, events, app.config.heartbeat_seconds),
            subscription,
            headers=SSE_HEADERS,
        )


# Only an upgrade matches it: to any other GET the path is POST's alone.
@protocol.get("/threads/<thread_id>/stream/events", websocket=True)
@endpoint(access=COMMAND, is_hidden=True)
def open_socket(thread_id: UUID) -> Response:
    """Both of the above on one WebSocket."""
    app = services()
    commands = commands_of(app)
    if not commands.sees(thread_id):
        raise ThreadNotFound(thread_id)
    return serve_socket(app, thread_id, commands)


def read_body() -> Any:
    """The request's JSON.

    Raises:
        BadRequest: it is none.
    """
    try:
        return read_json()
    except InvalidRequest as error:
        raise BadRequest("Invalid JSON body") from error


def permit_by_guard(app: Services) -> Permit:
    """Ask the owner's handler about each run that a command makes; what may be read counts, too."""
    guard, known = app.guard, caller()

    def permit(body: RunCreateStateful, thread_id: UUID) -> tuple[RunCreateStateful, Caller]:
        if guard is None:
            return body, known
        arguments: dict[str, Any] = {"body": body, "thread_id": thread_id}
        found = guard.authorise(known, CREATE_RUN, arguments)
        both: list[tuple[str, str | None]] = [*known.filters.items(), *found.filters.items()]
        return arguments["body"], replace(found, filters=found.with_filters(both))

    return permit


def commands_of(app: Services) -> Commands:
    """What carries out commands."""
    return Commands(
        app.database,
        app.assistants,
        app.signals,
        app.config.project,
        caller(),
        permit_by_guard(app),
        app.priorities,
    )
