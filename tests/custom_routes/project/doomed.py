"""An application that does not start."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Miss something."""
    raise RuntimeError("no licence found")
    yield


app = Starlette(lifespan=lifespan)
not_an_app = 7
