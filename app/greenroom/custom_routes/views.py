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
from greenroom.contract.cors import may_open_socket
from greenroom.contract.http_settings import HttpSettings
from greenroom.contract.services import services
from greenroom.custom_routes.answers import CustomAnswers, TunnelResponse
from greenroom.custom_routes.exchange import Exchange
from greenroom.custom_routes.table import Tables
from greenroom.errors import BadRequest, BodyTooLarge, Unavailable
from greenroom.graphs.client import REQUEST_HEADER

HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "expect", "content-length", REQUEST_HEADER),
    }
)
"""Headers of one connection alone (RFC 9110, 7.6.1), and those that are written anew."""
PATH_SAFE = "/!$&'()*+,;=:@~-._"
QUERY_SAFE = PATH_SAFE + '?%[]"<>\\^`{|}'


def install(app: Flask, config: Config, settings: HttpSettings) -> None:
    """Have the application asked first, for what is its own."""
    graphs = app.extensions["greenroom"].graphs
    gateway = Gateway(config, settings, Tables(graphs, config.custom_socket))
    app.before_request(gateway.answer)


class Gateway:
    """Passes requests on to the owner's application."""

    def __init__(self, config: Config, settings: HttpSettings, tables: Tables) -> None:
        self.config = config
        self.settings = settings
        self.tables = tables
        self.answers = CustomAnswers(config)

    def answer(self) -> Response | None:
        """Answer a request that is the application's; None leaves it to us.

        Raises:
            Refused: the caller must be known, and is not.
            BodyTooLarge: more than HTTP_MAX_REQUEST_BODY_BYTES.
            GraphsUnavailable: the graphs process is away.
        """
        is_socket = request.headers.get("upgrade", "").lower() == "websocket"
        if not self._is_for_the_application(is_socket=is_socket):
            return None
        g.is_custom = True
        known = self._admit()
        if (request.content_length or 0) > self.config.max_body_bytes:
            raise BodyTooLarge("Request Entity Too Large")
        if is_socket:
            return self._open_socket(known)
        body = body_of_request()
        exchange = Exchange(self.config.custom_socket)
        try:
            exchange.send_head(self._head(known, body))
            return self.answers.respond(exchange, body.read, self.config.max_body_bytes)
        except BaseException:
            exchange.close()
            raise

    def _is_for_the_application(self, *, is_socket: bool) -> bool:
        prefix, whole = self.config.mount_prefix, path_of_request()
        if request.method == "CONNECT" or not f"{whole}/".startswith(f"{prefix}/"):
            return False
        path = whole.removeprefix(prefix) or "/"
        if "\n" in path:
            # To a pattern's `$` it is the path without it, which may be one of ours.
            return False
        is_unknown = isinstance(request.routing_exception, NotFound)
        try:
            table = self.tables.find()
        except Unavailable:
            if is_unknown:
                raise
            # Ours need no owner's code to be found; they are guarded as ever.
            return False
        if table.has(request.method, path, is_socket=is_socket):
            return True
        return is_unknown and table.may_have(path, is_socket=is_socket)

    def _admit(self) -> Caller:
        """Who calls, where that is asked: of a route in place of one of ours it always is."""
        app = services()
        known = ANYONE
        if app.guard is not None and (self.settings.authenticates_app or hides_guarded_route()):
            known = app.guard.identify()
        if app.rate is not None:
            app.rate.take(known)
        return known

    def _open_socket(self, known: Caller) -> Response:
        if not may_open_socket(self.config.cors, request.headers.get("origin"), request.host):
            raise BadRequest("Disallowed origin")
        exchange = Exchange(self.config.custom_socket)
        try:
            exchange.send_head(self._head(known, None))
            head = exchange.receive_head()
            if isinstance(head, h11.Response):
                return self.answers.give(exchange, head, None)
            return TunnelResponse(exchange, head, self.answers)
        except BaseException:
            exchange.close()
            raise

    def _head(self, known: Caller, body: "Body | None") -> h11.Request:
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
        headers.append((REQUEST_HEADER.encode(), json.dumps(self._circumstances(known)).encode()))
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
            "user": None if known.user is None else dict(known.user),
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
    """The body of this request, read already if the auth handler wanted it.

    Raises:
        BodyTooLarge: it was, and went on beyond the limit.
    """
    if g.get("has_read_body"):
        data = request.get_data(cache=True)
        # A chunked body is cut off there without a word.
        if request.content_length is None and request.environ["wsgi.input"].read(1):
            raise BodyTooLarge("Request Entity Too Large")
        return Body(io.BytesIO(data).read, [(b"content-length", str(len(data)).encode())])
    stream = request.environ["wsgi.input"]
    if request.content_length is not None:
        length = str(request.content_length).encode()
        return Body(stream.read, [(b"content-length", length)])
    if request.headers.get("transfer-encoding"):
        return Body(stream.read, [(b"transfer-encoding", b"chunked")])
    return Body(io.BytesIO().read, [])


def hides_guarded_route() -> bool:
    """Whether the server itself has a route for this request that is not open to everybody."""
    if request.url_rule is None:
        return False
    contract = getattr(current_app.view_functions[request.url_rule.endpoint], "contract", None)
    return contract is not None and contract.access is not OPEN
