"""HTTP for the protocol of generation 2: one command, or a stream of events (streaming-v2.md)."""

from contextlib import ExitStack
from typing import Any
from uuid import UUID

from flask import Blueprint, Response

from greenroom.contract.endpoint import Reply, endpoint, read_json
from greenroom.contract.services import Services, services
from greenroom.errors import BadRequest, InvalidRequest
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
from greenroom.protocol.service import Commands
from greenroom.protocol.socket import serve_socket
from greenroom.runs.answers import SSE_HEADERS
from greenroom.streaming.respond import streamed
from greenroom.streaming.thread_events import ThreadEvents, stream_events

protocol = Blueprint("protocol", __name__)


@protocol.post("/threads/<thread_id>/commands")
@endpoint(documents=CommandRequest, returns=CommandAnswer)
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
@endpoint(documents=EventStreamRequest, returns=Response)
def stream_thread_events(thread_id: UUID) -> Response:
    """Stream the events of all runs of a thread, kept ones first, until the client leaves.

    The thread need not exist yet.
    """
    app = services()
    body = read_body()
    wanted = read_filter(body)
    with ExitStack() as stack:
        subscription = stack.enter_context(app.relay.subscribe(thread_id, to_numbered=True))
        commands_of(app).open_events(thread_id)
        events = ThreadEvents(app.database, subscription, wanted.wants)
        events.next_seq = (read_count(body, "since") or 0) + 1
        return streamed(
            stream_events(subscription, events, app.config.heartbeat_seconds),
            subscription,
            stack.pop_all().close,
            headers=SSE_HEADERS,
        )


# Only an upgrade matches it: to any other GET the path is POST's alone.
@protocol.get("/threads/<thread_id>/stream/events", websocket=True)
@endpoint(is_hidden=True)
def open_socket(thread_id: UUID) -> Response:
    """Both of the above on one WebSocket."""
    app = services()
    return serve_socket(app, thread_id, commands_of(app))


def read_body() -> Any:
    """The request's JSON.

    Raises:
        BadRequest: it is none.
    """
    try:
        return read_json()
    except InvalidRequest as error:
        raise BadRequest("Invalid JSON body") from error


def commands_of(app: Services) -> Commands:
    """What carries out commands."""
    return Commands(app.database, app.assistants, app.signals, app.config.project)
