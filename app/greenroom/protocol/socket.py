"""The protocol on one WebSocket: commands in, answers and events out (streaming-v2.md, 3.3)."""

import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import gevent
from flask import Response, request
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError

from greenroom import wire
from greenroom.contract.cors import may_open_socket
from greenroom.contract.services import Services
from greenroom.errors import AppError, BadRequest, Unavailable
from greenroom.logs import get_logger
from greenroom.protocol.errors import CommandError, InvalidArgument
from greenroom.protocol.schemas import (
    MALFORMED,
    failure,
    is_command,
    read_command,
    read_filter,
    success,
)
from greenroom.protocol.service import Commands
from greenroom.streaming.frames import Batch, split
from greenroom.streaming.spans import Filter, data_of, number_of, select_frames
from greenroom.streaming.subscription import PIECE_BYTES
from greenroom.streaming.thread_events import FIRST_SEQ, ThreadEvents
from greenroom.streaming.thread_log import replay_events

log = get_logger(__name__)

RECEIVE_BYTES = 64 * 1024
NOT_JSON = "Protocol commands must be valid JSON."
OVERLOADED = 1013
"""Try again later (RFC 6455's registry)."""
REFUSED = 4000
"""Plus an HTTP status: clients do not try again."""


def serve_socket(app: Services, thread_id: UUID, commands: Commands) -> Response:
    """Answer an upgrade; what follows happens when the server calls the answer.

    Raises:
        BadRequest: not a handshake that we understand, or from an origin that may not.
    """
    if not may_open_socket(app.config.cors, request.headers.get("origin"), request.host):
        raise BadRequest("Disallowed origin")
    connection = WSConnection(ConnectionType.SERVER)
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in request.headers.items()
    ]
    try:
        connection.initiate_upgrade_connection(headers, request.full_path)
        accepted = connection.send(AcceptConnection())
    except ProtocolError as error:
        raise BadRequest("not a WebSocket handshake of version 13") from error
    return _SocketResponse(app, thread_id, commands, connection, accepted)


class _SocketResponse(Response):
    """Takes the connection over from the server, which must write nothing on it any more."""

    def __init__(
        self,
        app: Services,
        thread_id: UUID,
        commands: Commands,
        connection: WSConnection,
        accepted: bytes,
    ) -> None:
        super().__init__(status=101)
        self.app = app
        self.thread_id = thread_id
        self.commands = commands
        self.connection = connection
        self.accepted = accepted

    def __call__(self, environ: Any, _start_response: Any) -> Iterable[bytes]:
        """Serve the socket to its end, then have gunicorn close it without an answer."""
        wire_socket: socket.socket = environ["gunicorn.socket"]
        with ExitStack() as stack:
            subscription = stack.enter_context(
                self.app.relay.subscribe(self.thread_id, to_numbered=True)
            )
            events = ThreadEvents(self.app.database, subscription, lambda _key: False)
            served = Socket(self.app, self.commands, self.connection, wire_socket, events)
            served.serve(self.accepted)
        # gunicorn's own word for a connection that somebody else has taken over.
        raise StopIteration


class Socket:
    """One open WebSocket. This greenlet alone writes; another reads and leaves what it got."""

    def __init__(
        self,
        app: Services,
        commands: Commands,
        connection: WSConnection,
        wire_socket: socket.socket,
        events: ThreadEvents,
    ) -> None:
        self.commands = commands
        self.connection = connection
        self.wire_socket = wire_socket
        self.events = events
        self.subscription = events.subscription
        self.heartbeat_seconds = app.config.heartbeat_seconds
        self.largest_bytes = app.config.max_body_bytes
        self.filters: dict[str, Filter] = {}
        self.sent_seq = 0
        """The highest number sent."""
        self.received: deque[Event] = deque()
        self.heard_at = time.monotonic()
        events.wants = self._wants

    def serve(self, accepted: bytes) -> None:
        """Serve until the client leaves or the process stops."""
        reader = gevent.spawn(self._read)
        try:
            self._write(accepted)
            self._loop()
        except (OSError, gevent.Timeout, ProtocolError) as error:
            log.debug("socket ended", thread_id=str(self.events.thread_id), error=repr(error))
        finally:
            reader.kill(block=False)

    def _loop(self) -> None:
        subscription = self.subscription
        while True:
            batches = subscription.take(self.heartbeat_seconds)
            if subscription.is_dropped:
                self._close(OVERLOADED, "this client reads too slowly")
                return
            if subscription.is_gone:
                reason = CloseReason.GOING_AWAY if subscription.is_closing else None
                self._close(reason or CloseReason.NORMAL_CLOSURE)
                return
            for batch in batches:
                for frames in self.events.accept(batch):
                    self._send_frames(frames)
            has_received = bool(self.received)
            while self.received:
                if not self._handle(self.received.popleft()):
                    return
            if not batches and not has_received and not self._beat():
                return

    def _beat(self) -> bool:
        """Nothing happens: ask whether the client is there; False when it has not been for long."""
        if time.monotonic() - self.heard_at > self.subscription.patience_seconds:
            return False
        self._write(self.connection.send(Ping()))
        return True

    def _handle(self, event: Event) -> bool:
        """Answer what came; False at the end."""
        match event:
            case TextMessage():
                self._answer(event.data)
            case Ping() | CloseConnection():
                self._write(self.connection.send(event.response()))
            case BytesMessage():
                self._close(CloseReason.UNSUPPORTED_DATA, "text frames only")
        return not isinstance(event, CloseConnection | BytesMessage)

    def _answer(self, message: str) -> None:
        try:
            given = wire.loads(message)
        except ValueError:
            self._send(failure(None, "invalid_argument", NOT_JSON))
            return
        if not is_command(given):
            command_id = given.get("id") if isinstance(given, dict) else None
            self._send(failure(command_id, "invalid_argument", MALFORMED))
            return
        try:
            answer = self._carry_out(given)
        except CommandError as error:
            answer = failure(given["id"], error.code, str(error))
        except Unavailable as error:
            answer = failure(given["id"], "unknown_error", f"{error.status}: {error}")
        self._send(answer)

    def _carry_out(self, given: dict[str, Any]) -> dict[str, Any]:
        command = read_command(given)
        match command.method:
            case "subscription.subscribe":
                result = self._subscribe(command.params)
            case "subscription.unsubscribe":
                result = self._unsubscribe(command.params)
            case "subscription.reconnect":
                if not command.params.get("channels"):
                    raise InvalidArgument(
                        "subscription.reconnect requires a non-empty channels array."
                    )
                result = {**self._subscribe(command.params), "restored": True}
            case _:
                answer = self.commands.carry_out(self.events.thread_id, command)
                result = answer["result"]
        return success(command.command_id, result, self.sent_seq)

    def _subscribe(self, params: dict[str, Any]) -> dict[str, Any]:
        """Replay what is kept, then go on live: the answer comes in between."""
        try:
            wanted = read_filter(params)
        except BadRequest as error:
            raise InvalidArgument(
                "subscription.subscribe received an unsupported channel."
                if params.get("channels")
                else f"subscription.subscribe: {error}"
            ) from error
        try:
            self.commands.open_events(self.events.thread_id)
            for frames in self.events.replay():
                # What the subscriptions before have not seen yet.
                self._send_frames(frames)
            replayed = 0
            for frames in self._replay(wanted):
                replayed += self._send_frames(frames)
        except AppError as error:
            raise CommandError("unknown_error", f"{error.status}: {error}") from error
        subscription_id = str(uuid4())
        self.filters[subscription_id] = wanted
        self.subscription.next_seq = self.events.next_seq
        return {"subscription_id": subscription_id, "replayed_events": replayed}

    def _replay(self, wanted: Filter) -> Iterator[bytes]:
        end_seq = self.events.next_seq
        batch: Batch
        for batch in replay_events(self.events.database, self.events.thread_id, FIRST_SEQ):
            if batch.first_seq >= end_seq:
                return
            yield from select_frames(batch, FIRST_SEQ, wanted.wants)

    def _unsubscribe(self, params: dict[str, Any]) -> dict[str, Any]:
        subscription_id = params.get("subscription_id")
        if self.filters.pop(str(subscription_id), None) is None:
            raise CommandError("no_such_subscription", f"Unknown subscription: {subscription_id}")
        return {}

    def _wants(self, key: bytes) -> bool:
        return any(wanted.wants(key) for wanted in self.filters.values())

    def _send_frames(self, frames: bytes) -> int:
        """Send events; counts them."""
        sent = split(frames)
        for frame in sent:
            self.sent_seq = max(self.sent_seq, number_of(frame))
            self._write(self.connection.send(TextMessage(data_of(frame).decode())))
        return len(sent)

    def _send(self, answer: dict[str, Any]) -> None:
        self._write(self.connection.send(TextMessage(wire.dumps(answer).decode())))

    def _close(self, code: int, reason: str = "") -> None:
        self._write(self.connection.send(CloseConnection(code, reason)))

    def _write(self, data: bytes) -> None:
        """Send, as fast as the client reads; one that does not is given up.

        Raises:
            gevent.Timeout: it has not read a piece within its patience.
        """
        for start in range(0, len(data), PIECE_BYTES):
            with gevent.Timeout(self.subscription.patience_seconds):
                self.wire_socket.sendall(data[start : start + PIECE_BYTES])

    def _read(self) -> None:
        """Leave what the client sends for the greenlet that writes; at its end, end the socket."""
        parts: list[str] = []
        size = 0
        try:
            while data := self.wire_socket.recv(RECEIVE_BYTES):
                self.heard_at = time.monotonic()
                self.connection.receive_data(data)
                for event in self.connection.events():
                    if isinstance(event, TextMessage):
                        parts.append(event.data)
                        size += len(event.data)
                        if size > self.largest_bytes:
                            event = CloseConnection(CloseReason.MESSAGE_TOO_BIG)  # noqa: PLW2901
                        elif event.message_finished:
                            event = TextMessage("".join(parts))  # noqa: PLW2901
                            parts, size = [], 0
                        else:
                            continue
                    self.received.append(event)
                    self.subscription.nudge()
        except (OSError, ProtocolError) as error:
            log.debug("socket broke", thread_id=str(self.events.thread_id), error=repr(error))
        self.subscription.leave()
