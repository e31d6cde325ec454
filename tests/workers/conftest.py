"""What the tests of a worker's parts share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from greenroom.cli.embedded import EmbeddedRedis
from greenroom.signals.connection import connect


@pytest.fixture
def engine() -> Iterator[EmbeddedRedis]:
    """A Redis server of one's own."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with EmbeddedRedis(Path(directory) / "data") as made:
            yield made


@pytest.fixture
def client(engine: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A client of that server."""
    made = connect(engine.uri, socket_timeout=10.0)
    yield made
    made.close()
