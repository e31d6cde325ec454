"""An application whose middleware does what a header of the request tells it."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket


class Obeying:
    """Changes requests and answers: plain ASGI."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Do as the headers say, and mark the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = {name.decode(): value.decode() for name, value in scope["headers"]}
        if name := told.get("x-become"):
            kept = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
            scope["headers"] = [*kept, (b"authorization", f"Bearer {name}".encode())]
        if path := told.get("x-rewrite"):
            scope["path"] = path
        user = scope.get("user")
        found = "nobody" if user is None else user.identity

        async def mark(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(b"x-marked", b"yes"), (b"x-user-seen", found.encode())]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, mark)


async def judge(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse, or raise: as FastAPI's `@app.middleware("http")` would have it."""
    if "x-refuse" in request.headers:
        return JSONResponse({"detail": "refused by middleware"}, 401)
    if "x-raise" in request.headers:
        raise RuntimeError("secret detail of the owner's code")
    if "x-read" in request.headers:
        # Whoever comes afterwards still finds the body.
        await request.body()
    return await call_next(request)


async def tell(request: Request) -> Response:
    """Who calls, from where."""
    user = request.scope.get("user")
    name = None if user is None else user.identity
    return JSONResponse({"user": name, "path": request.url.path, "client": request.client})


async def digest(request: Request) -> Response:
    """Read a body."""
    return JSONResponse({"sha256": hashlib.sha256(await request.body()).hexdigest()})


async def count(_: Request) -> Response:
    """In place of the server's own."""
    return JSONResponse("counted by the owner")


async def talk(socket: WebSocket) -> None:
    """Say who calls."""
    await socket.accept()
    user = socket.scope.get("user")
    await socket.send_text("nobody" if user is None else user.identity)
    await socket.close()


app = Starlette(
    routes=[
        Route("/custom/tell", tell),
        Route("/custom/digest", digest, methods=["POST"]),
        Route("/threads/count", count, methods=["POST"]),
        WebSocketRoute("/custom/talk", talk),
    ],
    middleware=[Middleware(Obeying), Middleware(BaseHTTPMiddleware, dispatch=judge)],
)
