"""A connection to Redis that listens to channels: many say to which, one reads."""

from typing import Any, NamedTuple

import redis


class Heard(NamedTuple):
    """What Redis says to a subscriber."""

    kind: str
    """`message`, `subscribe`, `unsubscribe` or `pong`."""
    channel: str = ""
    data: Any = None
    """Of a message its bytes."""


class Ear:
    """Reads like redis-py's PubSub, for less.

    That one looks before each read whether there is something to read, and again whether the
    connection stands, which its read tells as well.
    """

    def __init__(self, client: redis.Redis) -> None:
        """Open nothing yet; `client` says where."""
        self._connection = client.connection_pool.make_connection()

    def open(self) -> None:
        """Connect, if there is no connection. This and all below may raise redis.RedisError."""
        self._connection.connect()

    def subscribe(self, *channels: str) -> None:
        """Hear more. It is done when `hear` says so, for each."""
        self._connection.send_command("SUBSCRIBE", *channels, check_health=False)

    def unsubscribe(self, *channels: str) -> None:
        """Hear less."""
        self._connection.send_command("UNSUBSCRIBE", *channels, check_health=False)

    def ping(self) -> None:
        """Ask whether Redis is there; it must be subscribed to something."""
        self._connection.send_command("PING", check_health=False)

    def hear(self) -> Heard | None:
        """Wait for what comes next; None when nothing did until the socket's time-out."""
        try:
            said = self._connection.read_response(disconnect_on_error=False)
        except redis.TimeoutError:
            return None
        match said:
            case [bytes() as kind, bytes() as channel, data]:
                return Heard(kind.decode(), channel.decode(), data)
        return Heard("pong")

    def overhear(self) -> Heard | None:
        """What has come already; None if there is nothing."""
        return self.hear() if self._connection.can_read(0) else None

    def close(self) -> None:
        """Disconnect; `open` opens again."""
        self._connection.disconnect()
