"""How we connect to Redis: short time-outs, because everything in it can be done without."""

import socket
from typing import Any

import redis
import redis.asyncio
import redis.backoff
import redis.retry

PAUSE_SECONDS = 1.0
"""Between two looks whether Redis is back; meanwhile nobody waits for it."""
SILENCE_SECONDS = 2.0
"""A subscription that hears nothing for so long asks whether anybody is there; then once more."""

OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 2.0,
    "socket_timeout": SILENCE_SECONDS,
    "health_check_interval": 15,
    # Responses that we store nothing of need no client-side tracking or third protocol.
    "protocol": 2,
}
OPTIONS_OF_TCP: dict[str, Any] = {"socket_keepalive": True}
if hasattr(socket, "TCP_KEEPIDLE"):
    OPTIONS_OF_TCP["socket_keepalive_options"] = {
        socket.TCP_KEEPIDLE: 15,
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_KEEPCNT: 3,
    }


def connect(uri: str, *, max_connections: int = 200, **options: Any) -> redis.Redis:
    """A client for threads or greenlets; opens nothing until its first command."""
    # Once more on a connection that a restart has cut, not on a host that stays silent.
    retry = redis.retry.Retry(
        redis.backoff.NoBackoff(), 1, supported_errors=(redis.ConnectionError,)
    )
    client: redis.Redis = redis.Redis.from_url(
        uri, max_connections=max_connections, retry=retry, **{**options_for(uri), **options}
    )
    return client


def connect_async(uri: str) -> redis.asyncio.Redis:
    """A client for one event loop; opens nothing until its first command."""
    retry = redis.asyncio.retry.Retry(
        redis.backoff.NoBackoff(), 1, supported_errors=(redis.ConnectionError,)
    )
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(uri, retry=retry, **options_for(uri))
    return client


def options_for(uri: str) -> dict[str, Any]:
    """How a connection to this address is made: a Unix socket knows nothing of TCP's."""
    return OPTIONS if uri.startswith("unix:") else OPTIONS | OPTIONS_OF_TCP
