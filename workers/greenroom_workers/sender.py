"""What all runs of a process tell Redis: one round trip after another, each with all that waits."""

import asyncio
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio

from greenroom.signals.straight import AsyncStraight, Command

Waiting = tuple[Sequence[Command], "asyncio.Future[list[Any]]"]


class Sender:
    """Belongs to one loop. A round trip costs as much for twenty commands as for one."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._straight = AsyncStraight(client)
        self._waiting: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def send(self, *commands: Command) -> list[Any]:
        """Send commands, in order and after those of earlier calls; their answers.

        Raises:
            redis.RedisError, OSError: Redis is away, or refuses one of them.
        """
        answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((commands, answers))
        if self._task is None:
            self._task = asyncio.create_task(self._send_all())
        return await answers

    async def close(self) -> None:
        """Give up what has not been sent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._straight.close()

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                await self._send(waiting)
        finally:
            self._task = None

    async def _send(self, waiting: Sequence[Waiting]) -> None:
        try:
            together = [command for commands, _ in waiting for command in commands]
            answers = iter(await self._straight.ask(*together))
        except (redis.RedisError, OSError) as error:
            for _, future in waiting:
                settle(future, error)
        except BaseException:
            for _, future in waiting:
                future.cancel()
            raise
        else:
            for commands, future in waiting:
                settle(future, [next(answers) for _ in commands])


def settle(future: "asyncio.Future[list[Any]]", answers: list[Any] | Exception) -> None:
    """Tell whoever waits, if they still do."""
    if future.done():
        return
    if isinstance(answers, Exception):
        future.set_exception(answers)
    elif error := next((answer for answer in answers if isinstance(answer, Exception)), None):
        future.set_exception(error)
    else:
        future.set_result(answers)
