"""A FastAPI application: a dependency, a middleware, models, and pages of its own."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from pydantic import BaseModel

app = FastAPI(title="The owner's")


class Thread(BaseModel):
    """A thing that is called as one of the server's own is."""

    colour: str
    metres: float


@app.middleware("http")
async def stamp(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Mark every answer."""
    response = await call_next(request)
    response.headers["x-stamped"] = "yes"
    return response


def read_shop(x_shop: Annotated[str | None, Header()] = None) -> str:
    """Which shop is meant."""
    if x_shop is None:
        raise HTTPException(400, "which shop?")
    return x_shop


@app.get("/shop/{thread_id}")
async def get_thread(thread_id: int, shop: Annotated[str, Depends(read_shop)]) -> Thread:
    """A thread to sew with."""
    return Thread(colour=f"{shop} red", metres=thread_id)


@app.post("/threads/count")
async def count_threads(thread: Thread) -> str:
    """In place of the server's own."""
    return thread.colour
