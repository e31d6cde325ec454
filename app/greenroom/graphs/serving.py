"""uvicorn's server without its pulse: it looked ten times a second whether it shall end."""

import asyncio
import socket
from contextlib import suppress
from types import FrameType

import uvicorn


class CalmServer(uvicorn.Server):
    """Sleeps until it is told to end: by SIGTERM or SIGINT, or by `end` from any thread.

    What the pulse keeps up to date besides, a date in headers and a count of requests, is unused.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._over = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the doors."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """Serve until told."""
        if not await self.on_tick(0):
            await self._over.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal."""
        super().handle_exit(sig, frame)
        self.end()

    def end(self) -> None:
        """End soon; before the start, at once after it."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):
                # It may have ended by itself.
                self._loop.call_soon_threadsafe(self._over.set)
