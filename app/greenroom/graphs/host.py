"""The graphs process: users' graphs behind a private Unix socket, for the web process.

Plain ASGI under uvicorn on an ordinary event loop. Requests and answers are JSON; errors are
`{"detail": str}` with the status of the AppError. `client.GraphsClient` speaks the other side.
"""

import asyncio
import os
import signal
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg
import uvicorn
import uvloop
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph_sdk import Auth

from greenroom import encryption, wire
from greenroom.auth.settings import read_settings
from greenroom.collector import calm_collector
from greenroom.config import Config, export_project_environment
from greenroom.errors import (
    AppError,
    ConfigError,
    DatabaseUnavailable,
    GraphFault,
    InvalidRequest,
    NotFound,
)
from greenroom.graphs.auth_handlers import AuthHandlers
from greenroom.graphs.client import GraphTimeout
from greenroom.graphs.custom_app import CustomApp, describe_routes, load_custom_app, serving
from greenroom.graphs.encoding import encode_json
from greenroom.graphs.encryption_handlers import load_ask
from greenroom.graphs.factories import Access, run_in_thread
from greenroom.graphs.history import Page, PageSaver
from greenroom.graphs.introspection import draw_graph, graph_schemas, subgraph_schemas
from greenroom.graphs.long_term import put_item, search_items
from greenroom.graphs.persistence import Persistence, open_persistence
from greenroom.graphs.priority_handler import PriorityHandler, load_priority
from greenroom.graphs.registry import Registry, load_attribute, load_registry
from greenroom.graphs.serving import CalmServer
from greenroom.graphs.state import (
    Graph,
    apply_supersteps,
    read_history,
    read_state,
    update_state,
)
from greenroom.graphs.users import with_user
from greenroom.keyring import install_keys
from greenroom.logs import configure_logs, get_logger

log = get_logger(__name__)

CALL_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 90
SHUTDOWN_SECONDS = 10
BACKLOG = 1024
# `xray` and `namespace` come from clients, who can ask for any number of different ones.
MAX_CACHED_ANSWERS = 1024

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request: which graph, on which thread, and what the endpoint needs beyond."""

    path: str
    graph_id: str
    thread_id: str
    """Empty where no thread is concerned."""
    config: RunnableConfig
    fields: Mapping[str, Any]

    @property
    def subject(self) -> str:
        """Whose code runs in this call, for the sentence that tells of its fault."""
        if self.path.startswith("/auth/"):
            return "The auth handler"
        if self.path.startswith("/priority/"):
            return "The priority handler"
        if self.path.startswith("/app/"):
            return "The application of http.app"
        if self.path.startswith("/encryption/"):
            return "The encryption handler"
        return f"Graph '{self.graph_id}'" if self.graph_id else "The embedding function"


class GraphsApp:
    """The ASGI application. Belongs to the loop that opened `persistence`."""

    def __init__(
        self,
        registry: Registry,
        persistence: Persistence,
        call_seconds: float,
        auth: AuthHandlers | None = None,
        priority: PriorityHandler | None = None,
        custom: CustomApp | None = None,
    ) -> None:
        self._custom = custom
        self._custom_routes = describe_routes(custom)
        self._registry = registry
        self._persistence = persistence
        self._call_seconds = call_seconds
        self._auth = auth
        self._priority = priority
        self._answers: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._endpoints: Mapping[str, Callable[[Call], Awaitable[bytes]]] = {
            "/state/read": self._read_state,
            "/state/history": self._read_history,
            "/state/update": self._update_state,
            "/state/supersteps": self._apply_supersteps,
            "/graphs/draw": self._draw,
            "/graphs/schemas": self._schemas,
            "/graphs/subgraphs": self._subgraphs,
            "/graphs/list": self._list,
            "/store/put": self._put_item,
            "/store/search": self._search_items,
            "/auth/rules": self._auth_rules,
            "/auth/authenticate": self._authenticate,
            "/auth/authorise": self._authorise,
            "/priority/assign": self._assign_priority,
            "/encryption/choose": self._choose_members,
            "/app/routes": self._list_custom_routes,
            "/app/openapi": self._describe_custom,
            "/health": self._health,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Whatever users' code does, there is an answer."""
        status, body = await self._answer(scope["path"], await _read_body(receive))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        endpoint = self._endpoints.get(path)
        if endpoint is None:
            return _error(NotFound())
        try:
            call = _parse(path, body)
        except InvalidRequest as error:
            return _error(error)
        task = asyncio.create_task(_guard(endpoint, call))
        done, _ = await asyncio.wait({task}, timeout=self._call_seconds)
        if done:
            return task.result()
        # Not awaited: a hung context manager may ignore the cancellation, too.
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)
        log.error("graph hangs", path=path, graph_id=call.graph_id, thread_id=call.thread_id)
        return _error(
            GraphTimeout(f"{call.subject} did not answer within {self._call_seconds:g} seconds")
        )

    def _open(
        self, call: Call, access: Access, saver: BaseCheckpointSaver[Any] | None = None
    ) -> AbstractAsyncContextManager[Graph]:
        return self._registry.open(
            call.graph_id,
            call.config,
            checkpointer=saver or self._persistence.checkpointer,
            store=self._persistence.store,
            access=access,
        )

    async def _read_state(self, call: Call) -> bytes:
        checkpoint = call.fields.get("checkpoint") or {}
        is_whole = checkpoint.get("checkpoint_id") and not call.fields.get("subgraphs")
        if is_whole and self._remembers(call):
            # As a history shows it; where there is none, the state is the empty one.
            for known in await self._remembered_history(call, limit=1):
                return known
        async with self._open(call, "threads.read") as graph:
            state = await read_state(
                graph,
                call.thread_id,
                call.config,
                checkpoint=call.fields.get("checkpoint"),
                subgraphs=bool(call.fields.get("subgraphs")),
            )
        return encode_json(state)

    async def _read_history(self, call: Call) -> bytes:
        show = self._remembered_history if self._remembers(call) else self._history
        states = await show(
            call,
            limit=call.fields.get("limit", 1),
            before=call.fields.get("before"),
            metadata=call.fields.get("metadata"),
        )
        return b"[%b]" % b",".join(states)

    def _remembers(self, call: Call) -> bool:
        """Whether a checkpoint looks the same each time: factories may make another graph of it."""
        keeps_any = self._persistence.snapshots.most_bytes > 0
        return keeps_any and self._registry.has_fixed_history(call.graph_id)

    async def _history(self, call: Call, **search: Any) -> list[bytes]:
        checkpoint = call.fields.get("checkpoint")
        async with self._open(call, "threads.read") as graph:
            states = await read_history(
                graph, call.thread_id, call.config, checkpoint=checkpoint, **search
            )
        return [encode_json(state) for state in states]

    async def _remembered_history(self, call: Call, **search: Any) -> list[bytes]:
        """As `_history`; snapshots that were shown before, and still hold, are not made again."""
        checkpoint = call.fields.get("checkpoint")
        namespace = (checkpoint or {}).get("checkpoint_ns", "")
        page = Page(self._persistence.snapshots, (call.graph_id, call.thread_id, namespace))
        saver = PageSaver(self._persistence.pool, self._persistence.serde, page)
        async with self._open(call, "threads.read", saver) as graph:
            states = await read_history(
                graph, call.thread_id, call.config, checkpoint=checkpoint, **search
            )
        return page.complete(states)

    async def _update_state(self, call: Call) -> bytes:
        async with self._open(call, "threads.update") as graph:
            written = await update_state(
                graph,
                call.thread_id,
                call.config,
                values=call.fields.get("values"),
                as_node=call.fields.get("as_node"),
                checkpoint=call.fields.get("checkpoint"),
            )
        return encode_json(written)

    async def _apply_supersteps(self, call: Call) -> bytes:
        async with self._open(call, "threads.update") as graph:
            written = await apply_supersteps(
                graph,
                call.thread_id,
                call.config,
                supersteps=call.fields.get("supersteps") or [],
            )
        return encode_json(written)

    async def _draw(self, call: Call) -> bytes:
        xray = call.fields.get("xray") or False
        return await self._introspect(call, lambda graph: draw_graph(graph, xray=xray), xray)

    async def _schemas(self, call: Call) -> bytes:
        return await self._introspect(
            call, lambda graph: {"graph_id": call.graph_id, **graph_schemas(graph)}
        )

    async def _subgraphs(self, call: Call) -> bytes:
        namespace, recurse = call.fields.get("namespace"), bool(call.fields.get("recurse"))
        return await self._introspect(
            call,
            lambda graph: subgraph_schemas(graph, namespace, recurse=recurse),
            namespace,
            recurse,
        )

    async def _introspect(self, call: Call, look: Callable[[Graph], Any], *question: Any) -> bytes:
        """Look at a graph in a thread: schemas cost CPU and may run users' validators."""
        # A bool and a number that are equal must not share an answer: xray 1 is not xray true.
        key = (call.path, call.graph_id, *((type(each), each) for each in question))
        if key in self._answers:
            self._answers.move_to_end(key)
            return self._answers[key]
        async with self._open(call, "assistants.read") as graph:
            answer = encode_json(await run_in_thread(look, graph))
        if self._registry.is_static(call.graph_id):
            self._answers[key] = answer
            if len(self._answers) > MAX_CACHED_ANSWERS:
                self._answers.popitem(last=False)
        return answer

    async def _list(self, _: Call) -> bytes:
        broken = {graph_id: each.message for graph_id, each in self._registry.broken.items()}
        return wire.dumps({"loaded": sorted(self._registry.loaded), "broken": broken})

    async def _put_item(self, call: Call) -> bytes:
        await put_item(self._persistence.store, call.fields)
        return b"null"

    async def _search_items(self, call: Call) -> bytes:
        return wire.dumps({"items": await search_items(self._persistence.store, call.fields)})

    async def _auth_rules(self, _: Call) -> bytes:
        return wire.dumps(self._handlers.rules())

    async def _authenticate(self, call: Call) -> bytes:
        return wire.dumps(await self._handlers.authenticate(call.fields))

    async def _authorise(self, call: Call) -> bytes:
        return wire.dumps(await self._handlers.authorise(call.fields))

    @property
    def _handlers(self) -> AuthHandlers:
        if self._auth is None:
            raise NotFound("langgraph.json has no auth.path")
        return self._auth

    async def _assign_priority(self, call: Call) -> bytes:
        if self._priority is None:
            raise NotFound("langgraph.json has no priority.path")
        return wire.dumps(await self._priority.assign(call.fields))

    async def _choose_members(self, call: Call) -> bytes:
        if not encryption.has_handler():
            raise GraphFault("the graphs process was started without JSON handlers")
        names = await run_in_thread(encryption.choose, call.fields["document"])
        return wire.dumps({"names": sorted(names)})

    async def _list_custom_routes(self, _: Call) -> bytes:
        return wire.dumps(self._custom_routes)

    async def _describe_custom(self, _: Call) -> bytes:
        describe = getattr(self._custom and self._custom.app, "openapi", None)
        if not callable(describe):
            return b"null"
        return encode_json(await run_in_thread(describe))

    async def _health(self, _: Call) -> bytes:
        return b'{"ok":true}'


async def _guard(endpoint: Callable[[Call], Awaitable[bytes]], call: Call) -> tuple[int, bytes]:
    """Run one endpoint; the border to users' graphs."""
    try:
        return 200, await endpoint(call)
    except AppError as error:
        return _error(error)
    except psycopg.OperationalError as error:
        log.warning("database unavailable", path=call.path, error=str(error))
        return _error(DatabaseUnavailable("the database is not available at the moment"))
    except (Exception, SystemExit) as error:  # users' code may raise anything
        log.exception(
            "graph raised", path=call.path, graph_id=call.graph_id, thread_id=call.thread_id
        )
        return _error(GraphFault(f"{call.subject} raised {type(error).__name__}"))


def _error(error: AppError) -> tuple[int, bytes]:
    return error.status, wire.dumps({"detail": str(error)})


def _parse(path: str, body: bytes) -> Call:
    try:
        fields = wire.loads(body) if body else {}
    except ValueError as error:
        raise InvalidRequest("the body is not JSON") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be an object")
    needed = {
        "graph_id": path.startswith(("/state/", "/graphs/")) and path != "/graphs/list",
        "thread_id": path.startswith("/state/"),
    }
    for name, is_needed in needed.items():
        if is_needed and not isinstance(fields.get(name), str):
            raise InvalidRequest(f"{name} must be a string")
    return Call(
        path,
        fields.get("graph_id") or "",
        fields.get("thread_id") or "",
        with_user(cast(RunnableConfig, fields.get("config") or {})),
        fields,
    )


async def _read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def main(config: Config, call_seconds: float = CALL_SECONDS) -> None:
    """Load the project's graphs and serve them until SIGTERM; then return.

    A broken graph stays broken alone. The socket exists from the moment the graphs are loaded.

    Args:
        call_seconds: how long one call may take; less than the client waits.
    Raises:
        ConfigError: the socket's path cannot be used, or another process listens there; `auth.path`
            or `http.app` cannot be used.
    """
    configure_logs(config.log_level, as_json=config.log_json)
    export_project_environment(config.project)
    install_keys(config, load_ask)
    registry = load_registry(config.project)
    auth = load_auth(config)
    priority = load_priority(config)
    wants_body = auth is not None and bool(auth.rules()["wants_body"])
    custom = load_custom_app(config, wants_body=wants_body)
    listener = _listen(config.graphs_socket)
    calm_collector()
    log.info("graphs loaded", loaded=len(registry.loaded), broken=sorted(registry.broken))
    with ExitStack() as stack:
        if custom is not None:
            stack.enter_context(serving(custom, _listen(config.custom_socket)))
        # uvicorn stops at these by itself, and raises them once more afterwards: ended is enough.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(_serve(config, registry, auth, priority, custom, listener, call_seconds))


def load_auth(config: Config) -> AuthHandlers | None:
    """The owner's handlers; None where langgraph.json names none.

    Raises:
        ConfigError: they cannot be used: nobody is let in unseen.
    """
    path = read_settings(config).path
    if path is None:
        return None
    found = load_attribute(config.project, path, "auth.path")
    if not isinstance(found, Auth):
        raise ConfigError(
            f"auth.path: {path} is a {type(found).__name__}, not a langgraph_sdk.Auth"
        )
    return AuthHandlers(found, config.auth_timeout_seconds)


async def _serve(
    config: Config,
    registry: Registry,
    auth: AuthHandlers | None,
    priority: PriorityHandler | None,
    custom: CustomApp | None,
    listener: socket.socket,
    call_seconds: float,
) -> None:
    async with open_persistence(config) as persistence:
        settings = uvicorn.Config(
            GraphsApp(registry, persistence, call_seconds, auth, priority, custom),
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        await CalmServer(settings).serve(sockets=[listener])


def _listen(path: str) -> socket.socket:
    """Bind the private socket; only this user may connect. A dead process's socket is replaced."""
    if not path:
        raise ConfigError("GREENROOM_GRAPHS_SOCKET is not set: name a path for a Unix socket")
    if _is_answered(path):
        raise ConfigError(f"{path} belongs to a graphs process that runs already")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        Path(path).unlink(missing_ok=True)
        listener.bind(path)
    except OSError as error:
        raise ConfigError(f"the graphs process cannot listen on {path}: {error}") from error
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
