"""The graphs process and its client: a real process, socket and Postgres."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from greenroom.cli.embedded import EmbeddedPostgres
from greenroom.config import Project
from greenroom.errors import (
    BadRequest,
    GraphFault,
    GraphsUnavailable,
    InvalidRequest,
    NotFound,
)
from greenroom.graphs.client import GraphsClient, GraphTimeout

GRAPHS = """
    import asyncio, contextlib, os, sys, threading, time
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph import END, START, StateGraph
    from langgraph_sdk.runtime import ServerRuntime
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        text: str

    graph = (
        StateGraph(State)
        .add_node("one", lambda s: s)
        .add_node("two", lambda s: s)
        .add_edge(START, "one")
        .add_edge("one", "two")
        .add_edge("two", END)
        .compile()
    )

    def configured(config: RunnableConfig, runtime: ServerRuntime):
        if config["configurable"].get("tenant") != "acme":
            raise PermissionError(f"no tenant for {runtime.access_context}")
        return graph

    def raises():
        raise RuntimeError("secret of the factory")

    def exits():
        sys.exit(1)

    async def exits_on_the_loop():
        sys.exit(1)

    def hangs():
        threading.Event().wait()

    async def hangs_on_the_loop():
        await asyncio.Event().wait()

    @contextlib.asynccontextmanager
    async def ignores_cancellation():
        try:
            yield await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    def waits_for_a_file(config: RunnableConfig):
        while not os.path.exists(config["configurable"]["path"]):
            time.sleep(0.01)
        return graph
"""
NAMES = [
    "graph",
    "configured",
    "raises",
    "exits",
    "exits_on_the_loop",
    "hangs",
    "hangs_on_the_loop",
    "ignores_cancellation",
    "waits_for_a_file",
]


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    """GRAPHS, and one that does not load."""
    graphs = {name: f"./graphs.py:{name}" for name in [*NAMES, "gone"]}
    return make_project({"graphs.py": GRAPHS}, graphs)


@pytest.fixture
def client(start_host: Any, project: Project, database_uri: str) -> GraphsClient:
    """A running graphs process that gives each call two seconds."""
    started: GraphsClient = start_host(project, database_uri, call_seconds=2.0)
    return started


@pytest.fixture
def thread_id() -> str:
    """A thread that nobody has used."""
    return str(uuid4())


def test_state_is_written_and_read_through_the_socket(client: GraphsClient, thread_id: str) -> None:
    """Answers are JSON to pass on; an update also says what the thread's row must show."""
    written = client.update_state("graph", thread_id, values={"text": "a"}, as_node="one")
    state = json.loads(client.read_state("graph", thread_id))
    client.update_state(
        "graph", thread_id, values={"text": "b"}, as_node="two", checkpoint=state["checkpoint"]
    )
    history = json.loads(client.read_history("graph", thread_id, limit=10))

    assert written["thread"] == {"status": "interrupted", "values": {"text": "a"}, "interrupts": {}}
    assert state["checkpoint"] == written["update"]["checkpoint"]
    assert state["next"] == ["two"]
    assert [each["values"]["text"] for each in history] == ["b", "a"]
    older = client.read_history("graph", thread_id, limit=10, before=history[0]["checkpoint_id"])
    assert json.loads(older) == history[1:]


def test_supersteps_go_through_the_socket(client: GraphsClient, thread_id: str) -> None:
    """One checkpoint each."""
    steps = [{"updates": [{"values": {"text": t}, "as_node": "two"}]} for t in ("a", "b")]
    written = client.apply_supersteps("graph", thread_id, steps)

    assert written["thread"]["values"] == {"text": "b"}
    assert len(json.loads(client.read_history("graph", thread_id, limit=9))) == 2


def test_graphs_are_drawn_and_described(client: GraphsClient) -> None:
    """Twice the same answer: the second comes from the cache."""
    for _ in range(2):
        assert len(json.loads(client.draw("graph", xray=True))["nodes"]) == 4
        schemas = json.loads(client.schemas("graph"))
        assert schemas["graph_id"] == "graph" and "text" in schemas["input_schema"]["properties"]
        assert json.loads(client.subgraphs("graph", recurse=True)) == {}


def test_loaded_and_broken_graphs_are_listed(client: GraphsClient) -> None:
    """A broken graph does not stop the process, and using it says what is wrong."""
    listed = client.list_graphs()

    assert listed["loaded"] == sorted(NAMES)
    assert "Could not find graph 'gone'" in listed["broken"]["gone"]
    with pytest.raises(GraphFault, match="Could not find graph 'gone'"):
        client.draw("gone")


def test_a_factory_gets_the_config_of_the_call(client: GraphsClient, thread_id: str) -> None:
    """Also for introspection, whose answers are not shared between configs."""
    acme = {"configurable": {"tenant": "acme"}}

    assert json.loads(client.read_state("configured", thread_id, config=acme))["values"] == {}
    assert json.loads(client.draw("configured", config=acme))["nodes"]
    with pytest.raises(GraphFault, match="Graph 'configured' raised PermissionError"):
        client.draw("configured")


@pytest.mark.parametrize(
    ("graph_id", "values", "as_node", "error", "sentence"),
    [
        ("nope", {}, None, NotFound, "Graph 'nope' not found"),
        ("graph", {}, "nope", BadRequest, "Node nope does not exist"),
        (3, {}, None, InvalidRequest, "graph_id must be a string"),
        ("raises", {}, None, GraphFault, "^Graph 'raises' raised RuntimeError$"),
        ("exits", {}, None, GraphFault, "raised SystemExit"),
        ("exits_on_the_loop", {}, None, GraphFault, "raised SystemExit"),
    ],
)
def test_failures_arrive_as_errors_of_ours(
    client: GraphsClient,
    thread_id: str,
    graph_id: Any,
    values: Any,
    as_node: Any,
    error: type[Exception],
    sentence: str,
) -> None:
    """By status; users' own words stay in the log, and the process lives on."""
    with pytest.raises(error, match=sentence):
        client.update_state(graph_id, thread_id, values=values, as_node=as_node)

    client.check_health()


def test_a_fault_of_users_code_is_logged_with_its_traceback(
    client: GraphsClient, start_host: Any, thread_id: str
) -> None:
    """Graph and thread are named there."""
    with pytest.raises(GraphFault):
        client.read_state("raises", thread_id)

    log = start_host.log.read_text()
    assert "secret of the factory" in log and "Traceback" in log
    assert thread_id in log and "raises" in log


@pytest.mark.parametrize("name", ["hangs", "hangs_on_the_loop", "ignores_cancellation"])
def test_a_hanging_factory_is_given_up_and_delays_nobody(
    client: GraphsClient, start_host: Any, thread_id: str, name: str
) -> None:
    """Each call has its deadline; hanging calls by the dozen leave the rest free."""
    with ThreadPoolExecutor(50) as pool:
        hanging = [pool.submit(client.read_state, name, thread_id) for _ in range(50)]
        assert json.loads(client.read_state("graph", thread_id))["values"] == {}
        for each in hanging:
            with pytest.raises(GraphTimeout, match=f"Graph '{name}' did not answer within 2 sec"):
                each.result()

    client.check_health()
    (process,) = start_host.processes
    process.terminate()
    assert process.wait(20) == 0


def test_a_blocking_factory_delays_nobody(
    client: GraphsClient, thread_id: str, tmp_path: Path
) -> None:
    """Another call is answered while the factory sleeps."""
    gate = tmp_path / "gate"
    config = {"configurable": {"path": str(gate)}}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.read_state, "waits_for_a_file", thread_id, config=config)
        client.read_state("graph", thread_id)
        assert not waiting.done()
        gate.touch()
        assert json.loads(waiting.result())["values"] == {}


def test_only_the_owner_may_connect(client: GraphsClient, start_host: Any) -> None:
    """The socket is the whole access control of the graphs process."""
    mode = Path(start_host.socket).stat().st_mode

    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_a_second_process_on_the_same_socket_is_refused(
    client: GraphsClient, start_host: Any, project: Project, database_uri: str
) -> None:
    """Rather than stealing the calls of the first."""
    with pytest.raises(GraphsUnavailable):
        GraphsClient(start_host.socket + "2", connect_patience_seconds=0).check_health()
    start_host(project, database_uri)

    assert start_host.processes[1].wait(60) != 0
    assert "runs already" in start_host.log.read_text()
    client.check_health()


def test_sigterm_ends_the_process_and_a_successor_takes_its_place(
    client: GraphsClient, start_host: Any, project: Project, database_uri: str, thread_id: str
) -> None:
    """Also after SIGKILL, which leaves the socket's file behind; clients notice nothing."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        client.read_state("graph", thread_id)
        process = start_host.processes[-1]
        process.send_signal(number)
        assert process.wait(20) == (0 if number == signal.SIGTERM else -number)
        start_host(project, database_uri, call_seconds=2.0)
        assert json.loads(client.read_state("graph", thread_id))["values"] == {}
        client.update_state("graph", str(uuid4()), values={"text": "a"}, as_node="one")


def test_sessions_that_postgres_closed_are_replaced(
    client: GraphsClient, thread_id: str, database_uri: str
) -> None:
    """A pooled connection may have died while nobody used it."""
    client.read_state("graph", thread_id)
    with psycopg.connect(database_uri, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )

    assert json.loads(client.read_state("graph", thread_id))["values"] == {}


def test_the_process_starts_without_postgres_and_recovers(
    start_host: Any,
    project: Project,
    open_directory: Callable[[], AbstractContextManager[Path]],
    set_up: Callable[[str], None],
    thread_id: str,
) -> None:
    """Meanwhile calls are told to come back; a restart of Postgres needs none of ours."""
    with open_directory() as directory:
        with EmbeddedPostgres(directory) as postgres:
            uri = postgres.uri
            set_up(uri)
        client = start_host(project, uri)
        with pytest.raises(GraphsUnavailable, match="database is not available"):
            client.read_state("graph", thread_id)
        for text in ("a", "b"):
            with EmbeddedPostgres(directory):
                client.update_state("graph", thread_id, values={"text": text}, as_node="two")
                state = json.loads(client.read_state("graph", thread_id))
                assert state["values"] == {"text": text}


def test_a_reused_connection_that_breaks_is_tried_once_more_for_reads_only(tmp_path: Path) -> None:
    """A write may have been made before the process died: sending it again could do it twice."""
    requests: list[str] = []
    path = str(tmp_path / "fake.sock")

    with serving_one_answer_per_connection(path, requests):
        client = GraphsClient(path, timeout_seconds=10)
        client.check_health()
        client.read_state("g", "t")
        with pytest.raises(GraphsUnavailable, match="broke off"):
            client.update_state("g", "t", values={})
        client.close()

    assert requests == ["/health", "/state/read", "/state/read", "/state/update"]


@contextmanager
def serving_one_answer_per_connection(path: str, requests: list[str]) -> Any:
    """Serve a host that answers each connection's first request and hangs up on its second."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                for answer in (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b""):
                    if not (path := read_request(connection)):
                        break
                    requests.append(path)
                    connection.sendall(answer)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def read_request(connection: socket.socket) -> str:
    """Read one request to its end; return its path, empty when the client has gone."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (part := connection.recv(65536)):
            return ""
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return head.split(b" ")[1].decode()


def test_the_client_imports_no_graph_code() -> None:
    """The web process must not carry langgraph, and never users' code."""
    code = (
        "import sys, greenroom.graphs.client as c\n"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('langgraph', 'langchain_core', 'pydantic', 'uvicorn', 'asyncio', 'psycopg')])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"
