"""How we connect to Redis: short time-outs, because everything in it can be done without."""

from typing import Any

import redis
import redis.asyncio
import redis.backoff
import redis.retry

OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 2.0,
    "socket_timeout": 5.0,
    "socket_keepalive": True,
    "health_check_interval": 15,
    # Responses that we store nothing of need no client-side tracking or third protocol.
    "protocol": 2,
}


def connect(uri: str, *, max_connections: int = 200, **options: Any) -> redis.Redis:
    """A client for threads or greenlets; opens nothing until its first command."""
    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 1)
    client: redis.Redis = redis.Redis.from_url(
        uri, max_connections=max_connections, retry=retry, **{**OPTIONS, **options}
    )
    return client


def connect_async(uri: str) -> redis.asyncio.Redis:
    """A client for one event loop; opens nothing until its first command."""
    retry = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 1)
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(uri, retry=retry, **OPTIONS)
    return client
