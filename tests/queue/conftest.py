"""What the tests of the queue share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from greenroom.config import Config, Project
from greenroom.database.engine import Database


@pytest.fixture
def single(database: Database, database_uri: str) -> Iterator[Database]:
    """One connection, so that each block gets the one that the block before had."""
    project = Project(directory=Path(), graphs={})
    config = Config(database_uri=database_uri, redis_uri="redis://unused", project=project)
    opened = Database(config, pool_size=1, application_name="tests")
    yield opened
    opened.close()
