"""Deployments of one's own."""

from collections.abc import Iterator

import pytest
from deployment import Deployment
from keyed import deploy


@pytest.fixture
def sealed() -> Iterator[Deployment]:
    """Engines of one's own; the processes are started by the test, each with its keys."""
    yield from deploy()
