"""The innermost middleware of `http.app`: what none of its routes answers goes back to the web.

There it is answered as if it had come from the client, and the answer takes the way through the
middleware. The web is asked here, too, who calls a route of the application, where middleware runs
before that is known.
"""

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import h11

from greenroom.graphs.passing import (
    DROPPED,
    HOP_BY_HOP,
    MAX_HEAD_BYTES,
    PATH_SAFE,
    REQUEST_HEADER,
    pack,
    unpack,
)
from greenroom.graphs.users import AuthUser
from greenroom.logs import get_logger

log = get_logger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

TOLD = "greenroom.told"
"""Where a scope has what the web process has told of its request."""
PIECE_BYTES = 64 * 1024
CLIENT_HAS_LEFT = 499
"""What middleware sees of an answer that nobody waits for any more; nginx's number."""
AWAY = b'{"detail":"the web process broke off the request"}'
TOO_LARGE = b'{"detail":"Request Entity Too Large"}'
RETRY = (b"retry-after", b"2")


@dataclass(slots=True)
class Told:
    """What the web process has told of one request."""

    path: str
    method: str | None
    is_ours: bool
    """The server's own view answers it, as long as middleware leaves path and method alone."""
    is_admitted: bool
    """Whoever calls may use the application's route, on the same condition."""
    user: Mapping[str, Any] | None
    is_cut: bool = False
    """The web broke the answer off: what was sent of it is not all."""

    def is_about(self, scope: Scope) -> bool:
        """Whether middleware has left path and method alone."""
        return bool(self.path == scope["path"] and self.method == scope.get("method"))


class BrokenOffError(ConnectionResetError):
    """The web process broke off the answer, or is not there."""


class ClientLeftError(BrokenOffError):
    """It did, because the client is gone."""


class Door:
    """Stands between an application's middleware and its routes."""

    def __init__(
        self,
        app: App,
        *,
        is_route: Callable[[Scope], bool],
        socket_path: str,
        wants_body: bool,
        largest_bytes: int,
    ) -> None:
        """Open nothing yet.

        Args:
            is_route: whether a route of the application's comes before ours.
            socket_path: where the web process takes requests back.
            wants_body: whether the owner's auth handler reads bodies.
        """
        self.app = app
        self.is_route = is_route
        self.socket_path = socket_path
        self.wants_body = wants_body
        self.largest_bytes = largest_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, to the application's routes or back to the web."""
        told: Told | None = scope.get(TOLD)
        if told is None or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_about = told.is_about(scope)
        is_ours = told.is_ours if is_about else not self.is_route(scope)
        if is_ours:
            await self._pass_back(told, scope, receive, send)
        elif told.is_admitted and is_about:
            await self.app(scope, receive, send)
        else:
            await self._admit(told, scope, receive, send)

    async def _pass_back(self, told: Told, scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(send)
        head = head_of(scope, framing_of(scope), user=told.user, is_question=False)
        try:
            async with asking(self.socket_path, head, receive) as back:
                await answer.give(back, await back.receive_head())
        except BrokenOffError as error:
            await answer.excuse(told, error)

    async def _admit(self, told: Told, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the web who calls, and let those in whom it knows."""
        answer = Answer(send)
        body = b""
        try:
            if self.wants_body:
                body = await read_body(receive, self.largest_bytes)
                if len(body) > self.largest_bytes:
                    await answer.brief(413, TOO_LARGE)
                    return
                receive = replay(body, receive)
            framing = [(b"content-length", str(len(body)).encode())] if body else []
            head = head_of(scope, framing, user=None, is_question=True)
            async with asking(self.socket_path, head, replay(body, never)) as back:
                said = await back.receive_head()
                packed = [value for name, value in said.headers if name == REQUEST_HEADER.encode()]
                if not packed:
                    await answer.give(back, said)
                    return
        except BrokenOffError as error:
            await answer.excuse(told, error)
            return
        rates = [(bytes(name), bytes(value)) for name, value in said.headers if is_rate(name)]
        known = identified(unpack(b",".join(packed).decode())["user"])
        await self.app({**scope, **known}, receive, adding(rates, send))


class WayBack:
    """One request to the web process, and its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._has_left = False

    async def send_all(self, head: h11.Request, receive: Receive) -> None:
        """Send the request, its body as it comes; then wait for the client to leave."""
        try:
            await self._send(head)
            while (message := await receive())["type"] == "http.request":
                if piece := message.get("body"):
                    await self._send(h11.Data(piece))
                if not message.get("more_body"):
                    await self._send(h11.EndOfMessage())
            self._has_left = True
        finally:
            # To the web it is the client that leaves. Whoever waits for the answer goes on, too.
            self._writer.close()

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if self._writer.is_closing():
            # It has broken before, and uvloop takes nothing more.
            return
        try:
            self._writer.write(data or b"")
            await self._writer.drain()
        except OSError as error:
            # It was answered before it was read, or the web has gone: the answer tells.
            log.debug("request not read to its end", error=repr(error))

    async def receive_head(self) -> h11.Response:
        """Wait for the answer's head.

        Raises:
            BrokenOffError: there will be none.
        """
        while not isinstance(event := await self._next(), h11.Response):
            if isinstance(event, h11.ConnectionClosed):
                raise self._fault()
        return event

    async def receive_body(self) -> AsyncIterator[bytes]:
        """What follows the head, as it comes.

        Raises:
            BrokenOffError: it ended before its end.
        """
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)

    async def _next(self) -> h11.Event:
        try:
            while not isinstance(event := self._http.next_event(), h11.Event):
                self._http.receive_data(await self._reader.read(PIECE_BYTES))
        except (OSError, h11.RemoteProtocolError) as error:
            raise self._fault() from error
        return event

    def _fault(self) -> BrokenOffError:
        if self._has_left:
            return ClientLeftError("the client has left")
        return BrokenOffError("the web process broke off the answer")


@asynccontextmanager
async def asking(socket_path: str, head: h11.Request, receive: Receive) -> AsyncIterator[WayBack]:
    """Send a request to the web process meanwhile.

    Raises:
        BrokenOffError: it is not there.
        h11.LocalProtocolError: the request's body is not as long as was promised.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(socket_path)
    except OSError as error:
        raise BrokenOffError("the web process is not there") from error
    back = WayBack(reader, writer)
    sender = asyncio.create_task(back.send_all(head, receive))
    try:
        yield back
    finally:
        sender.cancel()
        await asyncio.wait({sender})
        writer.close()
        if not sender.cancelled():
            sender.result()


class Answer:
    """The way of an answer to the client; knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False

    async def give(self, back: WayBack, head: h11.Response) -> None:
        """Pass the web's answer on, piece by piece.

        Raises:
            BrokenOffError: it ended before its end.
        """
        pairs = ((bytes(name), bytes(value)) for name, value in head.headers)
        headers = [(name, value) for name, value in pairs if name.decode() not in DROPPED]
        await self._start(head.status_code, headers)
        async for piece in back.receive_body():
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def brief(self, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
        """Give an answer of our own, in JSON."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [(b"content-type", b"application/json"), length, *more])
        await self._send({"type": "http.response.body", "body": body})

    async def excuse(self, told: Told, error: BrokenOffError) -> None:
        """End what the web has not.

        Raises:
            BrokenOffError: this one, where a clean end would be taken for the answer's own.
        """
        if isinstance(error, ClientLeftError):
            if self.has_started:
                await self._send({"type": "http.response.body", "body": b""})
            else:
                await self.brief(CLIENT_HAS_LEFT, b"")
            return
        if self.has_started:
            told.is_cut = True
            raise error
        log.warning("request not passed back", path=told.path, error=str(error))
        await self.brief(503, AWAY, RETRY)

    async def _start(self, status: int, headers: Headers) -> None:
        self.has_started = True
        message = {"type": "http.response.start", "status": status, "headers": list(headers)}
        await self._send(message)


def head_of(
    scope: Scope, framing: Headers, *, user: Mapping[str, Any] | None, is_question: bool
) -> h11.Request:
    """A request as middleware has left it, for the web process.

    Args:
        framing: the headers that say how long its body is.
        user: who calls, if that is known.
        is_question: who calls is all that is asked.
    Raises:
        h11.LocalProtocolError: middleware has made something of it that is no HTTP.
    """
    told = {
        "scheme": scope.get("scheme", "http"),
        "client": list(scope.get("client") or ("", 0)),
        "server": list(scope.get("server") or ("", 0)),
        "user": user,
        "is_question": is_question,
    }
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name.decode("latin-1").lower() not in HOP_BY_HOP
    ]
    query = scope.get("query_string", b"")
    target = target_of(scope)
    return h11.Request(
        method=scope["method"],
        target=target + b"?" + query if query else target,
        # Not "connection: close": at that the web would hang up on what it has not read, and an
        # answer that lies between would be lost with it. The one who asks hangs up.
        headers=[*headers, *framing, *pack(told)],
    )


def target_of(scope: Scope) -> bytes:
    """The path as bytes: those of the client, unless middleware has changed it."""
    if scope[TOLD].path == scope["path"]:
        raw: bytes = scope["raw_path"]
        return raw
    return quote(scope["path"], safe=PATH_SAFE).encode()


def framing_of(scope: Scope) -> Headers:
    """The headers that say how long a request's body is."""
    return [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() in {b"content-length", b"transfer-encoding"}
    ]


def identified(user: Mapping[str, Any] | None) -> dict[str, Any]:
    """Who calls, as the members of a scope."""
    if user is None:
        return {}
    # As Starlette's `requires` wants the permissions.
    scopes = list(user.get("permissions") or [])
    return {"user": AuthUser(user), "auth": SimpleNamespace(scopes=scopes)}


def is_rate(name: bytes) -> bool:
    """Whether a header tells how many requests are left."""
    return bytes(name).startswith(b"ratelimit-")


def adding(headers: Headers, send: Send) -> Send:
    """Add headers to an answer."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return add if headers else send


def replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read already, and then what comes."""
    left = [body]

    async def give() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return give


async def never() -> Message:
    """Wait; nobody looks whether the client of a question leaves."""
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}


async def read_body(receive: Receive, largest_bytes: int) -> bytes:
    """Read a body, or a little more than the largest one.

    Raises:
        ClientLeftError: there is less of it than was promised.
    """
    body = bytearray()
    while len(body) <= largest_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError("the client has left")
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return bytes(body)
