"""What every test can have: a migrated Postgres, and a server of real processes."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import greenroom.graphs  # noqa: F401 (before langgraph: it decides how strict that is)
from greenroom.cli.embedded import EmbeddedPostgres, EmbeddedRedis
from greenroom.config import Config, Project
from greenroom.database.engine import Database
from greenroom.database.migrate import migrate

sys.path.insert(0, str(Path(__file__).parent))

from deployment import Deployment


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fault suite; without them it runs in its short form."""
    parser.addoption("--full", action="store_true", help="run the fault scenarios at full size")
    parser.addoption("--soak", type=float, default=40.0, help="seconds that the soak lasts")


@pytest.fixture(scope="session")
def database_uri() -> Iterator[str]:
    """A Postgres: the one that we are told of, or one of our own."""
    if given := os.environ.get("GREENROOM_TEST_DATABASE_URI"):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with EmbeddedPostgres(Path(directory) / "data") as postgres:
            yield postgres.uri


@pytest.fixture(scope="session")
def database(database_uri: str) -> Iterator[Database]:
    """A migrated database, shared by all tests: each uses ids of its own."""
    project = Project(directory=Path(), graphs={})
    config = Config(database_uri=database_uri, redis_uri="redis://unused", project=project)
    migrate(config)
    opened = Database(config, pool_size=8, application_name="tests")
    yield opened
    opened.close()


@pytest.fixture
def valkey() -> Iterator[EmbeddedRedis]:
    """A Redis server of one's own."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with EmbeddedRedis(Path(directory) / "data") as made:
            yield made


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    """Engines of one's own, to be killed and restarted at will; start web and workers yourself."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory)) as made:
            yield made


@pytest.fixture(scope="session")
def server() -> Iterator[Deployment]:
    """One web and one worker process that nobody harms, shared by all tests."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory)) as made:
            made.start_web()
            made.start_worker()
            yield made


@pytest.fixture
def http(server: Deployment) -> Iterator[httpx.Client]:
    """A raw HTTP client of the shared server."""
    with server.client() as client:
        yield client
