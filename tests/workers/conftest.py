"""What the tests of a worker's parts share."""

from collections.abc import Iterator

import pytest
import redis

from greenroom.cli.embedded import EmbeddedRedis
from greenroom.signals.connection import connect


@pytest.fixture
def client(valkey: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A client of a server of one's own."""
    made = connect(valkey.uri, socket_timeout=10.0)
    yield made
    made.close()
