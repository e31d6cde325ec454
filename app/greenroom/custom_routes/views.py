"""HTTP for the owner's own routes (langgraph-json.md, 2.4): who gets in, and what is passed on."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import h11
from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import NotFound

from greenroom.auth.caller import ANYONE, Caller
from greenroom.auth.questions import OPEN
from greenroom.config import Config
from greenroom.contract.body import BODY
from greenroom.contract.cors import may_open_socket
from greenroom.contract.http_settings import AUTH_FIRST, HttpSettings
from greenroom.contract.inner import WayIn, inner_request
from greenroom.contract.services import services
from greenroom.custom_routes.answers import CustomAnswers, TunnelResponse
from greenroom.custom_routes.description import Descriptions
from greenroom.custom_routes.exchange import Exchange
from greenroom.custom_routes.table import Tables
from greenroom.errors import BadRequest, BodyTooLarge
from greenroom.graphs.passing import HOP_BY_HOP, PATH_SAFE, REQUEST_HEADER, pack

QUERY_SAFE = PATH_SAFE + '?%[]"<>\\^`{|}'
HEALTH_PATH = "/ok"
"""Told of this process alone, so that nobody ends it while the graphs process starts again."""


def install(app: Flask, config: Config, settings: HttpSettings) -> None:
    """Have the application asked first, for what is its own and what its middleware is to see."""
    graphs = app.extensions["greenroom"].graphs
    tables = Tables(graphs, config.custom_socket)
    gateway = Gateway(config, settings, tables)
    app.before_request(gateway.answer)
    descriptions = Descriptions(graphs, tables, is_guarded=settings.authenticates_app)
    app.extensions["custom_description"] = descriptions.with_own
    if config.way_back_socket:
        app.wsgi_app = WayIn(app.wsgi_app, config.way_back_socket)  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class Way:
    """How a request goes to the owner's application."""

    is_ours: bool
    """Only through its middleware: the view is ours."""
    has_middleware: bool


class Gateway:
    """Passes requests on to the owner's application."""

    def __init__(self, config: Config, settings: HttpSettings, tables: Tables) -> None:
        self.config = config
        self.settings = settings
        self.tables = tables
        self.answers = CustomAnswers(config)

    def answer(self) -> Response | None:
        """Answer a request that is the application's, or its middleware's; None leaves it to us.

        Raises:
            Refused: the caller must be known, and is not.
            BodyTooLarge: more than HTTP_MAX_REQUEST_BODY_BYTES.
            GraphsUnavailable: the graphs process is away.
        """
        inner = inner_request()
        if inner is not None:
            return self._say_who_calls() if inner.is_question else None
        is_socket = request.headers.get("upgrade", "").lower() == "websocket"
        way = self._find_way(is_socket=is_socket)
        if way is None:
            return None
        g.is_custom = not way.is_ours
        known, is_admitted = self._admit_before(way, is_socket=is_socket)
        if (request.content_length or 0) > self.config.max_body_bytes:
            raise BodyTooLarge("Request Entity Too Large")
        body = None if is_socket and not way.is_ours else body_of_request()
        circumstances = {
            **self._circumstances(known),
            "is_ours": way.is_ours,
            "is_admitted": is_admitted,
        }
        response = self._pass_on(self._head(circumstances, body), body)
        g.is_passed_on = True
        return response

    def _find_way(self, *, is_socket: bool) -> Way | None:
        """How this request is answered; None: by us alone.

        Raises:
            GraphsUnavailable: nobody has ever told this process.
        """
        prefix, whole = self.config.mount_prefix, path_of_request()
        if request.method == "CONNECT" or not f"{whole}/".startswith(f"{prefix}/"):
            return None
        path = whole.removeprefix(prefix) or "/"
        is_unknown = isinstance(request.routing_exception, NotFound)
        # Not caught: who does not know yet of any middleware does not go round it.
        table = self.tables.find()
        # To a pattern's `$` a path with a line break is the path without it, which may be ours.
        if "\n" not in path and (
            table.has(request.method, path, is_socket=is_socket)
            or (is_unknown and table.may_have(path, is_socket=is_socket))
        ):
            return Way(is_ours=False, has_middleware=table.is_wrapping)
        if not table.is_wrapping or path == HEALTH_PATH or opens_our_socket():
            return None
        return Way(is_ours=True, has_middleware=True)

    def _admit_before(self, way: Way, *, is_socket: bool) -> tuple[Caller, bool]:
        """Who calls, as far as that is asked before the application, and whether that is enough."""
        comes_first = way.has_middleware and self.settings.middleware_order != AUTH_FIRST
        if comes_first and not is_socket:
            return ANYONE, not (self._asks() or services().rate is not None)
        if not way.is_ours:
            return self._admit(), True
        guard = services().guard
        return (ANYONE if guard is None or not is_guarded_route() else guard.identify()), False

    def _asks(self) -> bool:
        """Whether who calls a route of the application must be known.

        Of a route in place of one of ours it always must.
        """
        return services().guard is not None and (
            self.settings.authenticates_app or is_guarded_route()
        )

    def _admit(self) -> Caller:
        """Who calls a route of the application."""
        app = services()
        known = app.guard.identify() if app.guard is not None and self._asks() else ANYONE
        if app.rate is not None:
            app.rate.take(known)
        return known

    def _say_who_calls(self) -> Response:
        """Answer the application, whose middleware has let a request for one of its routes by.

        Raises:
            Refused: nobody that we know, or once too often.
        """
        response = Response(status=204)
        for name, value in pack({"user": user_of(self._admit())}):
            response.headers.add(name.decode(), value.decode())
        return response

    def _pass_on(self, head: h11.Request, body: "Body | None") -> Response:
        if body is None and not may_open_socket(
            self.config.cors, request.headers.get("origin"), request.host
        ):
            raise BadRequest("Disallowed origin")
        exchange = Exchange(self.config.custom_socket)
        try:
            exchange.send_head(head)
            if body is not None:
                return self.answers.respond(exchange, body.read, self.config.max_body_bytes)
            opened = exchange.receive_head()
            if isinstance(opened, h11.Response):
                return self.answers.give(exchange, opened, None)
            return TunnelResponse(exchange, opened, self.answers)
        except BaseException:
            exchange.close()
            raise

    def _head(self, circumstances: Mapping[str, Any], body: "Body | None") -> h11.Request:
        """The request as the application gets it; without a body that of a WebSocket."""
        dropped = HOP_BY_HOP | {
            each.strip().lower() for each in request.headers.get("connection", "").split(",")
        }
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in request.headers.items()
            if name.lower() not in dropped
        ]
        if "host" not in request.headers:
            headers.append((b"host", b"localhost"))
        if body is None:
            headers += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
        else:
            headers += [(b"connection", b"close"), *body.headers]
        headers.append((REQUEST_HEADER.encode(), json.dumps(circumstances).encode()))
        environ = request.environ
        path = quote(environ["PATH_INFO"], safe=PATH_SAFE, encoding="latin-1")
        query = quote(environ.get("QUERY_STRING", ""), safe=QUERY_SAFE, encoding="latin-1")
        try:
            return h11.Request(
                method=request.method, target=f"{path}?{query}" if query else path, headers=headers
            )
        except h11.LocalProtocolError as error:
            raise BadRequest("the request's head cannot be passed on") from error

    def _circumstances(self, known: Caller) -> Mapping[str, Any]:
        """What is no header: `graphs.custom_app.with_request` reads it."""
        environ = request.environ
        return {
            "scheme": request.scheme,
            "client": [environ.get("REMOTE_ADDR", ""), int(environ.get("REMOTE_PORT") or 0)],
            "server": [environ.get("SERVER_NAME", ""), int(environ.get("SERVER_PORT") or 0)],
            "root_path": self.config.mount_prefix,
            "user": user_of(known),
        }


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body: where to read it, and the headers that say how long it is."""

    read: Callable[[int], bytes]
    headers: list[tuple[bytes, bytes]]


def path_of_request() -> str:
    """The path as the application will see it: Werkzeug's has lost slashes at its beginning."""
    raw: str = request.environ["PATH_INFO"]
    return raw.encode("latin-1").decode("utf-8", "replace")


def body_of_request() -> Body:
    """The body of this request, read already if the auth handler wanted it."""
    if (data := request.environ.get(BODY)) is not None:
        return Body(io.BytesIO(data).read, [(b"content-length", str(len(data)).encode())])
    stream = request.environ["wsgi.input"]
    if request.content_length is not None:
        length = str(request.content_length).encode()
        return Body(stream.read, [(b"content-length", length)])
    if request.headers.get("transfer-encoding"):
        return Body(stream.read, [(b"transfer-encoding", b"chunked")])
    return Body(io.BytesIO().read, [])


def user_of(known: Caller) -> dict[str, Any] | None:
    """What the application is told of a caller."""
    return None if known.user is None else dict(known.user)


def opens_our_socket() -> bool:
    """Whether this request opens a WebSocket of the server's own; by a header alone none does."""
    return request.url_rule is not None and request.url_rule.websocket


def is_guarded_route() -> bool:
    """Whether the server itself has a route for this request that is not open to everybody."""
    if request.url_rule is None:
        return False
    contract = getattr(current_app.view_functions[request.url_rule.endpoint], "contract", None)
    return contract is not None and contract.access is not OPEN
