"""A server whose callers are asked who they are."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from deployment import Deployment

PROJECT = Path(__file__).parent / "project" / "langgraph.json"


@pytest.fixture(scope="package")
def guarded() -> Iterator[Deployment]:
    """One web and one worker process behind the project's auth handlers."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        settings = {"GREENROOM_AUTH_TIMEOUT_SECONDS": "1"}
        with Deployment(Path(directory), PROJECT, **settings) as made:
            made.start_web()
            made.start_worker()
            yield made


@pytest.fixture
def ann(guarded: Deployment) -> Iterator[httpx.Client]:
    """A tenant."""
    with guarded.client(token="ann") as client:
        yield client


@pytest.fixture
def bob(guarded: Deployment) -> Iterator[httpx.Client]:
    """Another tenant."""
    with guarded.client(token="bob") as client:
        yield client


@pytest.fixture
def reader(guarded: Deployment) -> Iterator[httpx.Client]:
    """Somebody who may read what is ann's."""
    with guarded.client(token="reader") as client:
        yield client
