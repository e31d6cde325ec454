"""Commands on a connection of their own, for one thread or greenlet that sends them often."""

from typing import Any

import redis
import redis.asyncio

Command = tuple[str | bytes | float, ...]


class Straight:
    """Sends and reads, and nothing around it.

    redis-py's client takes a connection from a pool for each command, looks whether it stands, and
    wraps what comes back, which takes longer than a small command itself.
    """

    def __init__(self, client: redis.Redis) -> None:
        """Open nothing yet; `client` says where."""
        self._connection = client.connection_pool.make_connection()

    def ask(self, *commands: Command) -> list[Any]:
        """The answers to commands that may be sent twice, in one round trip.

        Raises:
            redis.RedisError: Redis is away, silent, or refuses one of them. The next question opens
                a connection anew.
        """
        is_new = not self._connection.is_connected
        try:
            return self._ask(commands)
        except redis.ConnectionError:
            if is_new:
                raise
            # A restart has cut it.
            return self._ask(commands)

    def _ask(self, commands: tuple[Command, ...]) -> list[Any]:
        connection = self._connection
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [connection.read_response() for _ in commands]
        except redis.RedisError:
            # Of what was asked there may be answers left.
            self.close()
            raise

    def close(self) -> None:
        """Disconnect; the next question connects again."""
        self._connection.disconnect()


class AsyncStraight:
    """The same on an event loop, where nobody else asks meanwhile."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        """Open nothing yet; `client` says where."""
        self._connection = client.connection_pool.make_connection()

    async def ask(self, *commands: Command) -> list[Any]:
        """The answers to commands that may be sent twice; of one that was refused, the error.

        Raises:
            redis.RedisError, OSError: Redis is away, or silent.
        """
        is_new = not self._connection.is_connected
        try:
            return await self._ask(commands)
        except redis.ConnectionError:
            if is_new:
                raise
            return await self._ask(commands)

    async def _ask(self, commands: tuple[Command, ...]) -> list[Any]:
        connection = self._connection
        try:
            packed = connection.pack_commands(commands)
            await connection.send_packed_command(packed, check_health=False)
            return [await self._read() for _ in commands]
        except BaseException:
            await self.close()
            raise

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response()
        except redis.ResponseError as error:
            return error

    async def close(self) -> None:
        """Disconnect; the next question connects again."""
        await self._connection.disconnect(nowait=True)
