"""Connections to Postgres through SQLAlchemy, and the one place where driver errors become ours."""

import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import psycopg2.extensions
from psycopg2.extras import NamedTupleCursor
from sqlalchemy import Connection, Dialect, TextClause, create_engine, event
from sqlalchemy import exc as sqlalchemy_errors

from greenroom import wire
from greenroom.config import Config
from greenroom.errors import DatabaseUnavailable

# Passing troubles by SQLSTATE (PostgreSQL, appendix A): connection, rollback, resources, operator,
# system error, read-only server, lock time-out.
TRANSIENT_CLASSES = ("08", "40", "53", "57", "58")
TRANSIENT_STATES = ("25006", "55P03")
KEEPALIVE = {
    "connect_timeout": 5,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


class Database:
    """A pool of connections. Every block that it hands out translates the driver's errors.

    Raises, from each block:
        DatabaseUnavailable: Postgres is away or refused for a passing reason; the transaction did
            not happen, or (lost at COMMIT) may have happened.
    """

    def __init__(self, config: Config, *, pool_size: int, application_name: str) -> None:
        self.engine = create_engine(
            config.database_uri.replace("postgresql://", "postgresql+psycopg2://", 1),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=10,
            pool_use_lifo=True,
            # Every block below ends its transaction itself.
            pool_reset_on_return=None,
            connect_args={
                **KEEPALIVE,
                "application_name": application_name,
                # Instants leave us with +00:00, whatever zone the server is set to.
                "options": "-c TimeZone=UTC",
            },
            json_serializer=lambda value: wire.dumps(value).decode(),
            json_deserializer=wire.loads,
        )
        event.listen(self.engine, "checkout", refuse_dead_connection)
        # One statement needs no BEGIN and COMMIT round trips around it.
        self.single = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Several statements, all or nothing: commits at the end of the block."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except (sqlalchemy_errors.DBAPIError, sqlalchemy_errors.TimeoutError) as error:
            raise translate(error) from error

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """Statements that each stand alone, committed one by one."""
        try:
            with self.single.connect() as connection:
                yield connection
        except (sqlalchemy_errors.DBAPIError, sqlalchemy_errors.TimeoutError) as error:
            raise translate(error) from error

    @contextmanager
    def direct(self) -> Iterator["Direct"]:
        """As `statement`, for the few texts on whose latency a run's start and end hang.

        The pool is SQLAlchemy's, its execution layer stays out: on an idle machine that layer costs
        a millisecond a statement, more than Postgres itself.
        """
        try:
            pooled = self.engine.raw_connection()
        except (sqlalchemy_errors.DBAPIError, sqlalchemy_errors.TimeoutError) as error:
            raise translate(error) from error
        connection: Any = pooled.driver_connection
        try:
            connection.autocommit = True
            with connection.cursor(cursor_factory=NamedTupleCursor) as cursor:
                yield Direct(cursor, self.engine.dialect)
        except psycopg2.Error as error:
            pooled.invalidate(error)
            if is_passing(error):
                raise DatabaseUnavailable("the database is not available") from error
            raise
        finally:
            if not connection.closed:
                # Whatever the block raised: the next user of the connection may want a transaction.
                connection.autocommit = False
            pooled.close()

    def close(self) -> None:
        """Close every idle connection."""
        self.engine.dispose()


class Direct:
    """Executes texts on the driver's own cursor; answers like a Connection, as far as they need."""

    _compiled: ClassVar[dict[TextClause, str]] = {}

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self.cursor = cursor
        self.dialect = dialect

    def execute(self, statement: TextClause, parameters: Mapping[str, Any]) -> "DirectResult":
        """Run one text; its rows have attributes, bytea columns are memoryviews."""
        sql = self._compiled.get(statement)
        if sql is None:
            sql = self._compiled[statement] = str(statement.compile(dialect=self.dialect))
        self.cursor.execute(sql, parameters)
        return DirectResult(self.cursor.fetchall() if self.cursor.description else [])


class DirectResult(list[Any]):
    """The rows, all of them."""

    def one_or_none(self) -> Any:
        """The only row, or None."""
        (row,) = self or [None]
        return row

    def one(self) -> Any:
        """The only row."""
        (row,) = self
        return row


Statements = Connection | Direct
"""What a function needs that executes texts alone."""


def refuse_dead_connection(connection: Any, _record: Any, _proxy: Any) -> None:
    """Make the pool replace a connection that the server has closed, without a round trip.

    An idle connection has nothing to read: if it has, that is the end of the stream or a farewell.
    """
    readable, _, _ = select.select([connection], [], [], 0)
    if readable:
        raise sqlalchemy_errors.DisconnectionError


def translate(error: sqlalchemy_errors.SQLAlchemyError) -> Exception:
    """Name a passing trouble DatabaseUnavailable; hand anything else back as it is."""
    if isinstance(error, sqlalchemy_errors.TimeoutError):
        return DatabaseUnavailable("every connection to the database is in use")
    if isinstance(error, sqlalchemy_errors.DBAPIError) and is_transient(error):
        return DatabaseUnavailable("the database is not available")
    return error


def is_transient(error: sqlalchemy_errors.DBAPIError) -> bool:
    """Tell whether the same statement may succeed a moment later."""
    return error.connection_invalidated or is_passing(error.orig)


def is_passing(error: BaseException | None) -> bool:
    """The same of the driver's own error."""
    state = getattr(error, "pgcode", None)
    if state:
        return state.startswith(TRANSIENT_CLASSES) or state in TRANSIENT_STATES
    return isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)


def install_wait_callback() -> None:
    """Let psycopg2 wait in gevent's loop; without it one slow query stops every stream.

    Process-wide: only for a monkey-patched web process. COPY does not work with it.
    """
    from gevent.socket import wait_read, wait_write  # noqa: PLC0415 (gevent belongs to web alone)

    def wait(connection: Any, timeout_seconds: float | None = None) -> None:
        while True:
            match connection.poll():
                case psycopg2.extensions.POLL_OK:
                    return
                case psycopg2.extensions.POLL_READ:
                    wait_read(connection.fileno(), timeout=timeout_seconds)
                case psycopg2.extensions.POLL_WRITE:
                    wait_write(connection.fileno(), timeout=timeout_seconds)

    psycopg2.extensions.set_wait_callback(wait)
