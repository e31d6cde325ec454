"""What Postgres and Redis were asked to do, from their own books."""

from collections import Counter
from typing import Any

import psycopg
import redis

WORK = """
SELECT (SELECT coalesce(sum(calls), 0) FROM pg_stat_statements
         JOIN pg_database ON pg_database.oid = dbid WHERE datname = current_database()),
       (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
       pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')
"""
DURABILITY = "SELECT current_setting('fsync'), current_setting('synchronous_commit')"
FLUSH_SECONDS = 1.1
"""A backend tells of its commits with its next statement, and once a second at most."""


class Counters:
    """The totals of one server's engines. Falsy for a server without any."""

    def __init__(self, database_uri: str | None, redis_uri: str | None) -> None:
        self.postgres: psycopg.Connection[Any] | None = None
        self.redis: redis.Redis | None = None
        if database_uri:
            self.postgres = psycopg.connect(database_uri, autocommit=True)
            self.postgres.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        if redis_uri:
            self.redis = redis.Redis.from_url(redis_uri)

    def __bool__(self) -> bool:
        return self.postgres is not None

    def read(self) -> Counter[str]:
        """Read them all. Commits lag: see `FLUSH_SECONDS`."""
        found: Counter[str] = Counter()
        if self.postgres:
            row = self.postgres.execute(WORK).fetchone()
            assert row
            found["statements"], found["commits"], found["wal_bytes"] = map(int, row)
        if self.redis:
            found["redis_commands"] = self.redis.info("stats")["total_commands_processed"]
        return found

    def check_durability(self) -> None:
        """Refuse a Postgres that answers before its disk has.

        Raises:
            SystemExit: fsync or synchronous_commit is off.
        """
        if self.postgres and self.postgres.execute(DURABILITY).fetchone() != ("on", "on"):
            raise SystemExit("Postgres runs without fsync or synchronous_commit: no comparison")

    def close(self) -> None:
        """Leave both."""
        if self.postgres:
            self.postgres.close()
        if self.redis:
            self.redis.close()
