"""psycopg's connections, made to give up a Postgres that stays silent."""

from typing import Any, Self

from psycopg import AsyncConnection, Connection
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads

from greenroom import wire
from greenroom.config import Config
from greenroom.database.silence import GRACE_SECONDS, Line, session


class PatientConnection(Connection[DictRow]):
    """A connection whose every wait ends. Made with the keywords of `options`."""

    line: Line | None = None
    """None while it is opened, under psycopg's own time-out."""

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """See the base class; takes `silence_seconds`, too."""
        silence_seconds = kwargs.pop("silence_seconds")
        connection = super().connect(conninfo, **kwargs)
        connection.line = Line(connection.pgconn.socket, silence_seconds)
        set_json_loads(wire.loads_jsonb, connection)
        return connection

    def wait(self, *arguments: Any, **options: Any) -> Any:
        """See the base class; raises OperationalError when the answer is overdue."""
        if self.line is None:
            return super().wait(*arguments, **options)
        try:
            with self.line:
                return super().wait(*arguments, **options)
        except ReadOnlySqlTransaction:
            leave(self)
            raise

    def close(self) -> None:
        """See the base class."""
        if self.line is not None:
            self.line.close()
        super().close()


class PatientAsyncConnection(AsyncConnection[DictRow]):
    """As `PatientConnection`."""

    line: Line | None = None
    """None while it is opened, under psycopg's own time-out."""

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """See the base class; takes `silence_seconds`, too."""
        silence_seconds = kwargs.pop("silence_seconds")
        connection = await super().connect(conninfo, **kwargs)
        connection.line = Line(connection.pgconn.socket, silence_seconds)
        set_json_loads(wire.loads_jsonb, connection)
        return connection

    async def wait(self, *arguments: Any, **options: Any) -> Any:
        """See the base class; raises OperationalError when the answer is overdue."""
        if self.line is None:
            return await super().wait(*arguments, **options)
        try:
            with self.line:
                return await super().wait(*arguments, **options)
        except ReadOnlySqlTransaction:
            leave(self)
            raise

    async def close(self) -> None:
        """See the base class."""
        if self.line is not None:
            self.line.close()
        await super().close()


def leave(connection: PatientConnection | PatientAsyncConnection) -> None:
    """Close the connection to a server that has become a standby (database/engine.py)."""
    connection.pgconn.finish()


def options(config: Config, application_name: str) -> dict[str, Any]:
    """What a pool opens its connections with: no transactions, rows as dictionaries."""
    return {
        **session(application_name, config.database_timeout_seconds),
        "silence_seconds": config.database_timeout_seconds + GRACE_SECONDS,
        "autocommit": True,
        "row_factory": dict_row,
        "prepare_threshold": 0,
    }
