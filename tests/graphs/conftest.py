"""Projects on disk, a real Postgres, and the graphs process itself."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.store.postgres import PostgresStore

from greenroom.cli.embedded import EmbeddedPostgres
from greenroom.config import Project, load_project
from greenroom.graphs.client import GraphsClient

MakeProject = Callable[[Mapping[str, str], Mapping[str, str]], Project]

HOST = """
import json, sys
from pathlib import Path
from greenroom.config import Config, load_project
from greenroom.graphs import host
given = json.loads(sys.argv[1])
config = Config(
    database_uri=given["database_uri"], redis_uri="redis://", graphs_socket=given["socket"],
    project=load_project(Path(given["project"]), {}), database_pool_size=4, **given["settings"],
)
host.main(config, call_seconds=given["call_seconds"])
"""


@pytest.fixture(scope="session")
def database_uri(
    open_directory: Callable[[], AbstractContextManager[Path]], set_up: Callable[[str], None]
) -> Iterator[str]:
    """A Postgres with langgraph's tables: the one we are told of, or one of our own."""
    if given := os.environ.get("GREENROOM_TEST_DATABASE_URI"):
        set_up(given)
        yield given
        return
    with open_directory() as directory, EmbeddedPostgres(directory) as postgres:
        set_up(postgres.uri)
        yield postgres.uri


@pytest.fixture(scope="session")
def set_up() -> Callable[[str], None]:
    """Make the tables that `greenroom migrate` would make."""

    def make_tables(uri: str) -> None:
        with PostgresSaver.from_conn_string(uri) as saver:
            saver.setup()
        with PostgresStore.from_conn_string(uri) as store:
            store.setup()

    return make_tables


@pytest.fixture(scope="session")
def open_directory() -> Callable[[], AbstractContextManager[Path]]:
    """Make scratch directories that a dropped root can enter."""

    @contextmanager
    def make_directory() -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
            Path(directory).chmod(0o755)
            yield Path(directory)

    return make_directory


@pytest.fixture
def make_project(tmp_path: Path) -> Iterator[MakeProject]:
    """Write files and a langgraph.json, and read the project."""
    path_before, modules_before = list(sys.path), set(sys.modules)

    def make(files: Mapping[str, str], graphs: Mapping[str, str]) -> Project:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text))
        config = tmp_path / "langgraph.json"
        config.write_text(json.dumps({"graphs": graphs, "dependencies": ["."]}))
        return load_project(config, {})

    yield make
    sys.path[:] = path_before
    for name in set(sys.modules) - modules_before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def start_host(tmp_path: Path) -> Iterator["StartHost"]:
    """Start graphs processes, and end them with the test."""
    starter = StartHost(tmp_path)
    yield starter
    starter.stop_all()


class StartHost:
    """Start one graphs process for a project."""

    def __init__(self, directory: Path) -> None:
        self.socket = str(directory / "graphs.sock")
        self.log = directory / "host.log"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.clients: list[GraphsClient] = []

    def __call__(
        self, project: Project, database_uri: str, call_seconds: float = 60.0, **settings: Any
    ) -> GraphsClient:
        """Return when the process answers. `settings`: of its Config."""
        given = {
            "database_uri": database_uri,
            "socket": self.socket,
            "project": str(project.directory / "langgraph.json"),
            "call_seconds": call_seconds,
            "settings": settings,
        }
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", HOST, json.dumps(given)], env=environment, stderr=output
            )
        self.processes.append(process)
        client = GraphsClient(self.socket, timeout_seconds=30, connect_patience_seconds=60)
        self.clients.append(client)
        client.check_health()
        return client

    def stop_all(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.kill()
            process.wait()
