"""Routes of an owner: good ones, and every kind of bad one."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

notes: list[str] = []
released = asyncio.Event()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
    """Say when it begins and ends."""
    print("lifespan begun", flush=True)
    yield {"greeting": "from the lifespan"}
    print("lifespan over", flush=True)


async def tell(request: Request) -> Response:
    """What this request looks like from here."""
    scope = request.scope
    user = scope.get("user")
    return JSONResponse(
        {
            "path": request.url.path,
            "root_path": scope["root_path"],
            "query": request.url.query,
            "scheme": request.url.scheme,
            "client": list(scope["client"]),
            "headers": [list(pair) for pair in request.headers.items()],
            "state": request.state.greeting,
            "user": None if user is None else [user.identity, user["permissions"]],
            "scopes": scope["auth"].scopes if "auth" in scope else None,
        }
    )


async def digest(request: Request) -> Response:
    """Read a body as it comes."""
    found, pieces = hashlib.sha256(), 0
    try:
        async for piece in request.stream():
            found.update(piece)
            pieces += 1
    except ClientDisconnect:
        notes.append("digest broken off")
        raise
    return JSONResponse({"sha256": found.hexdigest(), "pieces": pieces})


async def ticks(_: Request) -> Response:
    """One event, and another when somebody asks for it."""

    async def make() -> AsyncIterator[str]:
        try:
            yield "data: first\n\n"
            await released.wait()
            yield "data: second\n\n"
        finally:
            notes.append("ticks over")

    return StreamingResponse(make(), media_type="text/event-stream")


async def release(_: Request) -> Response:
    """Let the ticks go on."""
    released.set()
    return Response(status_code=204)


async def wait(request: Request) -> Response:
    """Answer never, but notice a client that leaves."""
    notes.append("waiting")
    while True:
        if (await request.receive())["type"] == "http.disconnect":
            notes.append("wait left")
            return Response()


async def list_notes(_: Request) -> Response:
    """What was noticed."""
    return JSONResponse(notes)


async def fail(_: Request) -> Response:
    """Go wrong."""
    raise RuntimeError("secret detail of the owner's code")


async def leave(_: Request) -> Response:
    """Try to take the process along."""
    raise SystemExit(3)


async def fail_late(_: Request) -> Response:
    """Go wrong when it is too late to say so."""

    async def make() -> AsyncIterator[str]:
        yield "begun"
        raise RuntimeError("secret detail of the owner's code")

    return StreamingResponse(make())


async def block(request: Request) -> Response:
    """Hold up the event loop until a file is there."""
    notes.append("blocking")
    flag = Path(request.query_params["flag"])
    flag.with_suffix(".begun").touch()
    while not flag.exists():
        time.sleep(0.02)  # noqa: ASYNC251 (the fault itself)
    return PlainTextResponse("done")


async def give_cookies(_: Request) -> Response:
    """Two headers of one name, and some that are the connection's."""
    response = PlainTextResponse("here")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    response.headers["vary"] = "Accept"
    response.headers["keep-alive"] = "timeout=1"
    return response


class Injecting(Response):
    """A header that would make two."""

    def init_headers(self, headers: Any = None) -> None:
        """Write them raw."""
        self.raw_headers = [(b"x-bad", b"a\r\nset-cookie: c=d")]


async def inject(_: Request) -> Response:
    """Answer with it."""
    return Injecting(b"x")


async def page(_: Request) -> Response:
    """A page with a script, which ours may not have."""
    return Response("<script>1</script>", media_type="text/html")


async def count(_: Request) -> Response:
    """In place of the server's own."""
    return JSONResponse("counted by the owner")


async def talk(socket: WebSocket) -> None:
    """Say everything twice."""
    await socket.accept()
    user = socket.scope.get("user")
    await socket.send_text("nobody" if user is None else user.identity)
    try:
        while True:
            said = await socket.receive_text()
            await socket.send_text(f"{said} {said}")
    finally:
        notes.append("socket over")


async def refuse(socket: WebSocket) -> None:
    """Let nobody in."""
    await socket.close()


app = Starlette(
    routes=[
        Route("/custom/tell", tell),
        Route("/custom/digest", digest, methods=["POST"]),
        Route("/custom/ticks", ticks),
        Route("/custom/release", release, methods=["POST"]),
        Route("/custom/wait", wait),
        Route("/custom/notes", list_notes),
        Route("/custom/fail", fail),
        Route("/custom/leave", leave),
        Route("/custom/fail-late", fail_late),
        Route("/custom/block", block),
        Route("/custom/cookies", give_cookies),
        Route("/custom/inject", inject),
        Route("/custom/page", page),
        Route("/threads/count", count, methods=["POST"]),
        Mount("/mounted", routes=[Route("/inner", tell)]),
        WebSocketRoute("/custom/talk", talk),
        WebSocketRoute("/custom/refuse", refuse),
    ],
    lifespan=lifespan,
)
