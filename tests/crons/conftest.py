"""Engines on which no worker fires crons but the test itself."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment


@pytest.fixture(scope="session")
def engines() -> Iterator[Deployment]:
    """Postgres and Redis without web or worker."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory)) as made:
            yield made
