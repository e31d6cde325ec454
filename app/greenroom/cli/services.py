"""What must hold before a process starts: Postgres and Redis answer, and the port is free."""

from urllib.parse import SplitResult, urlsplit

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from greenroom.config import Config
from greenroom.errors import ConfigError

CONNECT_SECONDS = 5
OLDEST_POSTGRES = 14
OLDEST_REDIS = (6, 2)


def check_services(config: Config) -> None:
    """Connect to Postgres and Redis once.

    Raises:
        ConfigError: one does not answer, refuses us or cannot serve us. Never shows a password.
    """
    check_postgres(config.database_uri)
    check_redis(config.redis_uri)


def check_postgres(uri: str) -> None:
    """Raise ConfigError unless this is a Postgres that lets us in and is new enough."""
    place = _place("DATABASE_URI", uri)
    try:
        with psycopg.connect(uri, connect_timeout=CONNECT_SECONDS) as connection:
            major = connection.info.server_version // 10_000
    except psycopg.OperationalError as error:
        raise ConfigError(
            f"DATABASE_URI: no connection to Postgres at {place}: {_line(error)}"
        ) from error
    except psycopg.ProgrammingError as error:
        # libpq quotes the part that it cannot parse, which may be of the password.
        raise ConfigError(f"DATABASE_URI is not a valid URI ({place}): {ENCODE}") from error
    if major < OLDEST_POSTGRES:
        raise ConfigError(
            f"DATABASE_URI: Postgres at {place} is version {major}: use {OLDEST_POSTGRES} or newer"
        )


def check_redis(uri: str) -> None:
    """Raise ConfigError unless this single Redis or Valkey lets us in and is new enough."""
    place = _place("REDIS_URI", uri)
    try:
        client = redis.Redis.from_url(
            uri,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=CONNECT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigError(f"REDIS_URI is not a valid URI ({place}): {ENCODE}") from error
    try:
        # Only these sections: INFO's other parts take a large server long.
        info = {**client.info("server"), **client.info("cluster")}
    except (redis.RedisError, OSError) as error:
        raise ConfigError(
            f"REDIS_URI: no connection to Redis at {place}: {_line(error)}"
        ) from error
    finally:
        client.close()
    if info.get("cluster_enabled") or info.get("redis_mode") == "cluster":
        raise ConfigError(
            f"REDIS_URI: {place} is a Redis Cluster: use a single server or a replica set"
        )
    found = str(info.get("redis_version", ""))
    if tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < OLDEST_REDIS:
        oldest = ".".join(map(str, OLDEST_REDIS))
        raise ConfigError(f"REDIS_URI: Redis at {place} is version {found}: use {oldest} or newer")


ENCODE = "percent-encode special characters in its user and password (@ is %40, / is %2F)"


def _place(variable: str, uri: str) -> str:
    """Name host, port and path of a URI: what a line may show.

    Raises:
        ConfigError: a bare / ? or # in the password has shifted it to where the path belongs.
    """
    parts: SplitResult = urlsplit(uri)
    rest = uri.split("://", 1)[-1].removeprefix(parts.netloc)
    if "@" in rest and "@" not in parts.netloc:
        raise ConfigError(f"{variable} has no host before its path: {ENCODE}")
    host = parts.netloc.rpartition("@")[2]
    return f"{host}{parts.path}" or "the default socket"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
