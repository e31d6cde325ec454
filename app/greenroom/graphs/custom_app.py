"""The owner's own ASGI application (`http.app`), on a thread with an event loop of its own.

Of its own, so that code of it that blocks holds up neither graphs nor authentication.
"""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
import uvloop

from greenroom import wire
from greenroom.config import Config
from greenroom.contract.http_settings import read_settings
from greenroom.errors import ConfigError
from greenroom.graphs.passing import MAX_HEAD_BYTES, REQUEST_HEADER
from greenroom.graphs.registry import load_attribute
from greenroom.graphs.serving import CalmServer
from greenroom.graphs.way_back import (
    TOLD,
    App,
    BrokenOffError,
    Door,
    Message,
    Receive,
    Scope,
    Send,
    Told,
    identified,
)
from greenroom.logs import get_logger

log = get_logger(__name__)

SHUTDOWN_SECONDS = 10
BACKLOG = 1024
FRAMEWORK_PATHS = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")
"""Attributes of a FastAPI application: paths of its own description, which does not hide ours."""
FAULT = b'{"detail":"Internal Server Error"}'


class CustomApp:
    """The owner's application, framed: whatever it does, there is an answer and a log line."""

    def __init__(self, app: App, path: str, *, has_middleware: bool = False) -> None:
        self.app = app
        self.path = path
        self.has_middleware = has_middleware
        self.startup_fault = "its startup failed"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request, socket or lifespan on; the border to the owner's code."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._noting_faults(send))
            return
        made = with_request(scope)
        told: Told = made[TOLD]
        answer = Answer(send, told)
        try:
            await self.app(made, receive, answer)
        except BrokenOffError as error:
            log.info("answer broken off", path=scope["path"], error=str(error))
        except (Exception, SystemExit):  # the owner's code may raise anything
            log.exception("custom route raised", path=scope["path"], method=scope.get("method"))
            if scope["type"] == "http" and not answer.has_started:
                await answer.fail()

    def _noting_faults(self, send: Send) -> Send:
        async def note(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                lines = str(message.get("message") or "").strip().splitlines()
                self.startup_fault = lines[-1] if lines else self.startup_fault
            await send(message)

        return note


class Answer:
    """The way back to the server, which looks at an answer's head before it is sent."""

    def __init__(self, send: Send, told: Told) -> None:
        self._send = send
        self._told = told
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        """Send.

        Raises:
            BrokenOffError: middleware would end in order what the web has broken off.
            h11.LocalProtocolError: a status or a header that HTTP does not have: a line break, say.
        """
        if self._told.is_cut:
            raise BrokenOffError("the web process broke off the answer")
        if message["type"] == "http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            h11.Response(status_code=message["status"], headers=headers)
            message = {**message, "headers": headers}
        await self._send(message)
        self.has_started = True

    async def fail(self) -> None:
        """Answer 500 in our shape."""
        headers = [(b"content-type", b"application/json")]
        await self({"type": "http.response.start", "status": 500, "headers": headers})
        await self({"type": "http.response.body", "body": FAULT})


def with_request(scope: Scope) -> Scope:
    """A scope as if the client had come to us: who it is, where it came in, whose prefix."""
    ours = REQUEST_HEADER.encode()
    headers = [pair for pair in scope["headers"] if pair[0] != ours]
    told = wire.loads(next(value for name, value in scope["headers"] if name == ours))
    is_secure = told["scheme"] == "https"
    schemes = {"http": told["scheme"], "websocket": "wss" if is_secure else "ws"}
    made = {
        **scope,
        "headers": headers,
        "scheme": schemes[scope["type"]],
        "client": tuple(told["client"]),
        "server": tuple(told["server"]),
        "root_path": told["root_path"],
        **identified(told["user"]),
    }
    made[TOLD] = Told(
        path=scope["path"],
        method=scope.get("method"),
        is_ours=told["is_ours"],
        is_admitted=told["is_admitted"],
        user=told["user"],
    )
    return made


def load_custom_app(config: Config, *, wants_body: bool = False) -> CustomApp | None:
    """The owner's application; None where langgraph.json names none.

    Args:
        wants_body: whether the owner's auth handler reads bodies.
    Raises:
        ConfigError: it cannot be imported, or is no application.
    """
    settings = read_settings(config.project)
    if settings.app is None:
        return None
    found = load_attribute(config.project, settings.app, "http.app")
    if not callable(found) or isinstance(found, type):
        raise ConfigError(
            f"http.app: {settings.app} is a {type(found).__name__}, not an ASGI application"
        )
    names = [getattr(each.cls, "__name__", "?") for each in getattr(found, "user_middleware", ())]
    if names:
        hang_door(found, config, wants_body=wants_body)
        log.info("middleware sees every request", middleware=names, order=settings.middleware_order)
    return CustomApp(found, settings.app, has_middleware=bool(names))


def hang_door(app: Any, config: Config, *, wants_body: bool) -> None:
    """Have what an application's middleware lets by, and its routes do not answer, go back."""
    from starlette.middleware import Middleware  # noqa: PLC0415 (the owner brings it)

    app.user_middleware.append(
        Middleware(
            Door,
            is_route=lambda scope: is_route(app, scope),
            socket_path=config.way_back_socket,
            wants_body=wants_body,
            largest_bytes=config.max_body_bytes,
        )
    )
    # It may have been built already: by a test client, say.
    app.middleware_stack = None


def describe_routes(app: CustomApp | None) -> dict[str, Any]:
    """Which requests are for the application.

    Returns:
        `{"is_opaque": bool, "is_wrapping": bool, "routes": [{"pattern", "methods", "is_socket",
        "is_weak"}]}`. Opaque is an application that may answer what none of its routes matches;
        wrapping one whose middleware sees what is ours. `methods` is None for all; `is_socket` None
        for both kinds of request. A weak route comes after the server's own.
    """
    if app is None:
        return {"is_opaque": False, "is_wrapping": False, "routes": []}
    routes = known_routes(app.app)
    described = [] if routes is None else [describe_route(app.app, each) for each in routes]
    return {
        "is_opaque": routes is None,
        "is_wrapping": app.has_middleware,
        "routes": described,
    }


def known_routes(app: Any) -> list[Any] | None:
    """The routes of a Starlette application; None where they cannot be known."""
    routes = getattr(app, "routes", None)
    if not isinstance(routes, list) or not all(hasattr(each, "path_regex") for each in routes):
        return None
    return routes


def describe_route(app: Any, route: Any) -> Mapping[str, Any]:
    """One route of a Starlette application: a path, a mount, or a WebSocket."""
    from starlette.routing import Mount, WebSocketRoute  # noqa: PLC0415 (as above)

    methods = getattr(route, "methods", None)
    is_mount = isinstance(route, Mount)
    framework = {getattr(app, name, None) for name in FRAMEWORK_PATHS}
    return {
        "pattern": route.path_regex.pattern,
        "methods": sorted(methods) if methods else None,
        "is_socket": None if is_mount else isinstance(route, WebSocketRoute),
        # What is mounted at the root would hide the whole API.
        "is_weak": route.path in framework or (is_mount and not route.path),
    }


def is_route(app: Any, scope: Scope) -> bool:
    """Whether a route of the application comes before ours, as `table.Table.has` would find."""
    from starlette.routing import Match  # noqa: PLC0415 (as above)

    return any(
        not describe_route(app, each)["is_weak"] and each.matches(scope)[0] is Match.FULL
        for each in known_routes(app) or ()
    )


class _Server(CalmServer):
    """Tells when it has started, or will not."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.settled.set()

    def run_apart(self, listener: socket.socket) -> None:
        """Serve, on this thread, until `should_exit`."""
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self.serve(sockets=[listener]))
        except SystemExit:
            # uvicorn's way to say that the startup failed.
            log.debug("http.app ended")
        finally:
            has_started = self.started
            self.settled.set()
        if has_started and not self.should_exit:
            # Nobody would serve these routes any more: another process shall.
            log.error("the server of http.app ended by itself")
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def serving(app: CustomApp, listener: socket.socket) -> Iterator[None]:
    """Serve the application meanwhile; its lifespan is entered before and left afterwards.

    Raises:
        ConfigError: its startup failed.
    """
    settings = uvicorn.Config(
        app,
        interface="asgi3",
        # An application without a lifespan is none the worse.
        lifespan="auto",
        http="h11",
        ws="wsproto",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS // 2,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    server = _Server(settings)
    thread = threading.Thread(
        target=server.run_apart, args=(listener,), name="http.app", daemon=True
    )
    thread.start()
    server.settled.wait()
    if not server.started:
        raise ConfigError(f"http.app: {app.path} does not start: {app.startup_fault}")
    try:
        yield
    finally:
        server.end()
        # A daemon: code that blocks does not keep the process.
        thread.join(SHUTDOWN_SECONDS)
