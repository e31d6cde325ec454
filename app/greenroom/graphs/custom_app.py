"""The owner's own ASGI application (`http.app`), on a thread with an event loop of its own.

Of its own, so that code of it that blocks holds up neither graphs nor authentication.
"""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import h11
import uvicorn
import uvloop

from greenroom import wire
from greenroom.config import Config
from greenroom.contract.http_settings import HttpSettings, read_settings
from greenroom.errors import ConfigError
from greenroom.graphs.client import MAX_HEAD_BYTES, REQUEST_HEADER
from greenroom.graphs.registry import load_attribute
from greenroom.graphs.users import AuthUser
from greenroom.logs import get_logger

log = get_logger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SHUTDOWN_SECONDS = 10
BACKLOG = 1024
FRAMEWORK_PATHS = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")
"""Attributes of a FastAPI application: paths of its own description, which does not hide ours."""
FAULT = b'{"detail":"Internal Server Error"}'


class CustomApp:
    """The owner's application, framed: whatever it does, there is an answer and a log line."""

    def __init__(self, app: Callable[..., Awaitable[None]], path: str) -> None:
        self.app = app
        self.path = path
        self.startup_fault = "its startup failed"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request, socket or lifespan on; the border to the owner's code."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._noting_faults(send))
            return
        answer = Answer(send)
        told = with_request(scope)
        try:
            await self.app(told, receive, answer)
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

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        """Send.

        Raises:
            h11.LocalProtocolError: a status or a header that HTTP does not have: a line break, say.
        """
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
    }
    if told["user"] is not None:
        made["user"] = AuthUser(told["user"])
        # As Starlette's `requires` wants them.
        made["auth"] = SimpleNamespace(scopes=list(told["user"].get("permissions") or []))
    return made


def load_custom_app(config: Config) -> CustomApp | None:
    """The owner's application; None where langgraph.json names none.

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
    warn_of_middleware(found, settings)
    return CustomApp(found, settings.app)


def warn_of_middleware(app: Any, settings: HttpSettings) -> None:
    """Say which of an application's wishes are not met."""
    names = [getattr(each.cls, "__name__", "?") for each in getattr(app, "user_middleware", ())]
    if not names:
        return
    log.warning(
        "middleware of http.app runs for the routes of http.app alone, not for the server's own",
        middleware=names,
    )
    if settings.authenticates_app and settings.middleware_order == "middleware_first":
        log.warning("http.middleware_order: callers are known before any middleware runs")


def describe_routes(app: CustomApp | None) -> dict[str, Any]:
    """Which requests are for the application.

    Returns:
        `{"is_opaque": bool, "routes": [{"pattern", "methods", "is_socket", "is_weak"}]}`. Opaque is
        an application that may answer what none of its routes matches. `methods` is None for all;
        `is_socket` None for both kinds of request. A weak route comes after the server's own.
    """
    if app is None:
        return {"is_opaque": False, "routes": []}
    routes = getattr(app.app, "routes", None)
    is_known = isinstance(routes, list) and all(hasattr(each, "path_regex") for each in routes)
    if not is_known or routes is None:
        return {"is_opaque": True, "routes": []}
    framework = {getattr(app.app, name, None) for name in FRAMEWORK_PATHS}
    # A middleware may answer any path.
    is_opaque = bool(getattr(app.app, "user_middleware", ()))
    return {"is_opaque": is_opaque, "routes": [describe_route(each, framework) for each in routes]}


def describe_route(route: Any, framework: set[Any]) -> Mapping[str, Any]:
    """One route of a Starlette application: a path, a mount, or a WebSocket."""
    from starlette.routing import Mount, WebSocketRoute  # noqa: PLC0415 (the owner brings it)

    methods = getattr(route, "methods", None)
    is_mount = isinstance(route, Mount)
    return {
        "pattern": route.path_regex.pattern,
        "methods": sorted(methods) if methods else None,
        "is_socket": None if is_mount else isinstance(route, WebSocketRoute),
        # What is mounted at the root would hide the whole API.
        "is_weak": route.path in framework or (is_mount and not route.path),
    }


class _Server(uvicorn.Server):
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
        server.should_exit = True
        # A daemon: code that blocks does not keep the process.
        thread.join(SHUTDOWN_SECONDS)
