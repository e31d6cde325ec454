"""An application with middleware, and a page mounted at its root."""

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route


class Marking:
    """Marks every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Add a header."""

        async def mark(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-marked", b"yes"))
            await send(message)

        await self.app(scope, receive, mark)


async def any_page(request: Request) -> Response:
    """Say which."""
    return PlainTextResponse(f"page {request.url.path}")


app = Starlette(
    routes=[Mount("/", routes=[Route("/{rest:path}", any_page, methods=["GET", "POST"])])],
    middleware=[Middleware(Marking)],
)
