"""Servers with routes of their owner's, on one Postgres and one Redis."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment

PROJECT = Path(__file__).parent / "project"
AUTH = Path(__file__).parents[1] / "auth" / "project" / "auth.py"


@pytest.fixture(scope="package")
def engines() -> Iterator[Deployment]:
    """Where every server of these tests keeps its things."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copytree(PROJECT, directory / "project")
        shutil.copy(AUTH, directory / "project" / "auth.py")
        with Deployment(directory, directory / "project" / "langgraph.json") as made:
            yield made


@pytest.fixture(scope="package")
def write_project(engines: Deployment) -> Callable[..., str]:
    """Write a langgraph.json beside the project's own; gives its path."""

    def write(name: str, **blocks: Any) -> str:
        file = engines.directory / "project" / f"{name}.json"
        given = json.loads((PROJECT / "langgraph.json").read_text())
        file.write_text(json.dumps({**given, **blocks}))
        return str(file)

    return write


@pytest.fixture(scope="package")
def serve(
    engines: Deployment, write_project: Callable[..., str]
) -> Callable[..., AbstractContextManager[httpx.Client]]:
    """Start a server with another langgraph.json; gives a client of it."""

    @contextmanager
    def started(name: str, **blocks: Any) -> Iterator[httpx.Client]:
        url = engines.start_web(GREENROOM_CONFIG=write_project(name, **blocks))
        with httpx.Client(base_url=url, timeout=60) as client:
            yield client

    return started


@pytest.fixture(scope="package")
def custom(engines: Deployment) -> str:
    """The URL of a server with the Starlette application, and nobody asked who calls."""
    return engines.start_web(HTTP_MAX_REQUEST_BODY_BYTES="2000000")


@pytest.fixture
def client(custom: str) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=custom, timeout=60) as made:
        yield made
