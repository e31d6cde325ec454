"""Calls from the web process to the graphs process. Imports neither langgraph nor users' code.

Synchronous, for gevent: `http.client` over a Unix socket waits cooperatively once patched.
"""

import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any
from uuid import UUID

from greenroom import wire
from greenroom.errors import (
    AppError,
    BadRequest,
    GraphFault,
    GraphsUnavailable,
    InvalidRequest,
    NotFound,
)

MAX_IDLE_CONNECTIONS = 32
# Shorter than the host's keep-alive, so that it is we who close first.
MAX_IDLE_SECONDS = 60.0
RECONNECT_PAUSE_SECONDS = 0.05


class GraphTimeout(GraphFault):
    """The user's graph code did not come to an end within the deadline of a call."""

    status = 504


ERRORS: Mapping[int, type[AppError]] = {
    error.status: error
    for error in (BadRequest, NotFound, InvalidRequest, GraphFault, GraphsUnavailable, GraphTimeout)
}


class GraphsClient:
    """One web process's way to the graphs process; safe under greenlets and threads.

    Every method raises BadRequest, NotFound or InvalidRequest as the call deserves, GraphFault
    when the user's code failed, GraphTimeout when it hung, GraphsUnavailable when the process
    or its database does not answer. Methods that return bytes give the JSON to pass on.

    Common arguments: `config` is the assistant's or thread's, for factories. `checkpoint` has any
    of `checkpoint_id`, `checkpoint_ns`, `checkpoint_map`.
    """

    def __init__(
        self,
        socket_path: str,
        timeout_seconds: float = 75.0,
        connect_patience_seconds: float = 5.0,
    ) -> None:
        """Open nothing yet.

        Args:
            timeout_seconds: longest silence while waiting; above the host's deadline per call.
            connect_patience_seconds: how long a call waits for a graphs process that restarts.
        """
        self._socket_path = socket_path
        self._timeout_seconds = timeout_seconds
        self._connect_patience_seconds = connect_patience_seconds
        self._idle: deque[tuple[_UnixConnection, float]] = deque()

    def read_state(
        self,
        graph_id: str,
        thread_id: UUID | str,
        *,
        config: Mapping[str, Any] | None = None,
        checkpoint: Mapping[str, Any] | None = None,
        subgraphs: bool = False,
    ) -> bytes:
        """Read a thread's state; see `state.read_state`."""
        return self._post(
            "/state/read",
            graph_id=graph_id,
            thread_id=thread_id,
            config=config,
            checkpoint=checkpoint,
            subgraphs=subgraphs,
        )

    def read_history(
        self,
        graph_id: str,
        thread_id: UUID | str,
        *,
        config: Mapping[str, Any] | None = None,
        limit: int = 1,
        before: str | Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Read a thread's states, newest first; see `state.read_history`."""
        return self._post(
            "/state/history",
            graph_id=graph_id,
            thread_id=thread_id,
            config=config,
            limit=limit,
            before=before,
            metadata=metadata,
            checkpoint=checkpoint,
        )

    def update_state(
        self,
        graph_id: str,
        thread_id: UUID | str,
        *,
        config: Mapping[str, Any] | None = None,
        values: Any = None,
        as_node: str | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write one checkpoint.

        Returns:
            `{"update": <the client's answer>, "thread": {"status", "values", "interrupts"}}`; see
            `state.update_state`.
        """
        body = self._post(
            "/state/update",
            is_repeatable=False,
            graph_id=graph_id,
            thread_id=thread_id,
            config=config,
            values=values,
            as_node=as_node,
            checkpoint=checkpoint,
        )
        return _loads_object(body)

    def apply_supersteps(
        self,
        graph_id: str,
        thread_id: UUID | str,
        supersteps: Sequence[Mapping[str, Any]],
        *,
        config: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write one checkpoint per superstep; returns as `update_state`."""
        body = self._post(
            "/state/supersteps",
            is_repeatable=False,
            graph_id=graph_id,
            thread_id=thread_id,
            config=config,
            supersteps=supersteps,
        )
        return _loads_object(body)

    def draw(
        self, graph_id: str, *, config: Mapping[str, Any] | None = None, xray: bool | int = False
    ) -> bytes:
        """Draw nodes and edges; see `introspection.draw_graph`."""
        return self._post("/graphs/draw", graph_id=graph_id, config=config, xray=xray)

    def schemas(self, graph_id: str, *, config: Mapping[str, Any] | None = None) -> bytes:
        """Read the JSON schemas, `graph_id` included; see `introspection.graph_schemas`."""
        return self._post("/graphs/schemas", graph_id=graph_id, config=config)

    def subgraphs(
        self,
        graph_id: str,
        *,
        config: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        recurse: bool = False,
    ) -> bytes:
        """Read the schemas of nested graphs; see `introspection.subgraph_schemas`."""
        return self._post(
            "/graphs/subgraphs",
            graph_id=graph_id,
            config=config,
            namespace=namespace,
            recurse=recurse,
        )

    def list_graphs(self) -> dict[str, Any]:
        """List `{"loaded": [id], "broken": {id: sentence}}`."""
        return _loads_object(self._post("/graphs/list"))

    def put_item(
        self,
        namespace: Sequence[str],
        key: str,
        value: Mapping[str, Any],
        *,
        index: Sequence[str] | None,
        ttl_minutes: float | None,
    ) -> None:
        """Embed and write a store item; see `long_term.put_item`."""
        # Repeatable: it replaces the whole item.
        self._post(
            "/store/put",
            namespace=namespace,
            key=key,
            value=value,
            index=index,
            ttl_minutes=ttl_minutes,
        )

    def search_items(
        self,
        labels: Sequence[str],
        query: str,
        *,
        filter: Mapping[str, Any] | None,  # noqa: A002 (the wire's word)
        limit: int,
        offset: int,
        refresh: bool,
    ) -> bytes:
        """Search the store by meaning; `{"items": [...]}`, see `long_term.search_items`."""
        return self._post(
            "/store/search",
            labels=labels,
            query=query,
            filter=filter,
            limit=limit,
            offset=offset,
            refresh=refresh,
        )

    def auth_rules(self) -> dict[str, Any]:
        """Which questions the owner's auth handlers answer; see `AuthHandlers.rules`."""
        return _loads_object(self._post("/auth/rules"))

    def authenticate(self, **request: Any) -> dict[str, Any]:
        """Find out who makes a request; see `AuthHandlers.authenticate`."""
        return _loads_object(self._post("/auth/authenticate", **request))

    def authorise(
        self, user: Mapping[str, Any], questions: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """What a caller may do, an answer to each question; see `AuthHandlers.authorise`."""
        body = self._post("/auth/authorise", user=user, questions=questions)
        answers: list[dict[str, Any]] = _loads_object(body)["answers"]
        return answers

    def assign_priority(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What a thread's runs shall have; see `PriorityHandler.assign`."""
        return _loads_object(self._post("/priority/assign", **fields))

    def choose_members(self, document: Mapping[str, Any]) -> list[str]:
        """Which members of metadata are to be encrypted; see `JsonHandlers.choose`."""
        body = self._post("/encryption/choose", document=document)
        names: list[str] = _loads_object(body)["names"]
        return names

    def custom_routes(self) -> dict[str, Any]:
        """Which requests are for `http.app`; see `custom_app.describe_routes`."""
        return _loads_object(self._post("/app/routes"))

    def custom_description(self) -> dict[str, Any] | None:
        """What `http.app` says of itself in OpenAPI; None where it says nothing."""
        described: dict[str, Any] | None = wire.loads(self._post("/app/openapi"))
        return described

    def check_health(self) -> None:
        """Return when the graphs process answers; waits as long as any call does."""
        self._exchange("GET", "/health", None, is_repeatable=True)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop()[0].close()

    def _post(self, path: str, /, *, is_repeatable: bool = True, **request: Any) -> bytes:
        return self._exchange("POST", path, wire.dumps(request), is_repeatable=is_repeatable)

    def _exchange(
        self, method: str, path: str, body: bytes | None, *, is_repeatable: bool
    ) -> bytes:
        connection, is_reused = self._acquire()
        try:
            status, answer = connection.exchange(method, path, body)
        except TimeoutError as error:
            connection.close()
            raise GraphsUnavailable("the graphs process does not answer in time") from error
        except (OSError, HTTPException) as error:
            connection.close()
            # A write is not sent twice: the process may have died after it had been made.
            if not (is_reused and is_repeatable and not connection.has_answered):
                raise GraphsUnavailable("the graphs process broke off the call") from error
            self.close()
            return self._exchange(method, path, body, is_repeatable=False)
        except BaseException:
            # A killed greenlet leaves an answer behind that must not reach the next call.
            connection.close()
            raise
        self._release(connection)
        if status != HTTPStatus.OK:
            raise ERRORS.get(status, GraphFault)(_detail(answer))
        return answer

    def _acquire(self) -> "tuple[_UnixConnection, bool]":
        """Take a connection, and tell whether it was used before."""
        while self._idle:
            connection, idle_since = self._idle.pop()
            if time.monotonic() - idle_since < MAX_IDLE_SECONDS and not connection.is_stale():
                return connection, True
            connection.close()
        return self._connect(), False

    def _connect(self) -> "_UnixConnection":
        give_up_at = time.monotonic() + self._connect_patience_seconds
        while True:
            connection = _UnixConnection(self._socket_path, self._timeout_seconds)
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                if time.monotonic() >= give_up_at:
                    raise GraphsUnavailable("the graphs process is not running") from error
                time.sleep(RECONNECT_PAUSE_SECONDS)
            else:
                return connection

    def _release(self, connection: "_UnixConnection") -> None:
        # `http.client` drops the socket when the answer said `connection: close`.
        if connection.sock is None or len(self._idle) >= MAX_IDLE_CONNECTIONS:
            connection.close()
        else:
            self._idle.append((connection, time.monotonic()))


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    sock: socket.socket | None

    def __init__(self, socket_path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._socket_path = socket_path
        self.has_answered = False

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)

    def exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        self.has_answered = False
        self.request(method, path, body, {"Content-Type": "application/json"})
        response = self.getresponse()
        self.has_answered = True
        return response.status, response.read()

    def is_stale(self) -> bool:
        """Tell whether the other side has closed; between two calls it has nothing to say."""
        if self.sock is None:
            return True
        try:
            self.sock.settimeout(0)
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            self.sock.settimeout(self.timeout)
            return False
        except OSError:
            return True
        return True


def _loads_object(body: bytes) -> dict[str, Any]:
    value: dict[str, Any] = wire.loads(body)
    return value


def _detail(answer: bytes) -> str:
    try:
        return str(wire.loads(answer)["detail"])
    except (ValueError, TypeError, KeyError):
        return "the graphs process gave no reason"
