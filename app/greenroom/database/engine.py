"""Connections to Postgres through SQLAlchemy, and the one place where driver errors become ours."""

import queue
import select
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import psycopg2.extensions
from sqlalchemy import Connection, ExceptionContext, TextClause, create_engine, event
from sqlalchemy import exc as sqlalchemy_errors
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from greenroom import encryption
from greenroom.config import Config
from greenroom.database.places import Places
from greenroom.database.prepared import GENERIC_PLANS, PreparedText
from greenroom.database.silence import CONNECT_SECONDS, GRACE_SECONDS, Line, session
from greenroom.errors import DatabaseUnavailable

# Passing troubles by SQLSTATE (PostgreSQL, appendix A): connection, rollback, resources, operator,
# system error, read-only server, transaction left idle, lock time-out.
TRANSIENT_CLASSES = ("08", "40", "53", "57", "58")
READ_ONLY = "25006"
TRANSIENT_STATES = (READ_ONLY, "25P03", "25P04", "55P03")
POOL_SECONDS = 10.0
"""How long a block waits for a connection when all are in use."""
FRESH_SECONDS = 0.05
"""For so long a connection that has answered is taken for one that lives."""
LINE = "line"
"""Where a connection's `info` has the watch over its silence."""
PLANS = "plans"
"""Where it has its prepared statements."""


class Database:
    """A pool of connections. Every block that it hands out translates the driver's errors.

    Args:
        statement_seconds: how long one statement may take, or Postgres stay silent; None takes
            the configured time.
    Raises, from each block:
        DatabaseUnavailable: Postgres is away or refused for a passing reason; the transaction did
            not happen, or (lost at COMMIT) may have happened.
    """

    def __init__(
        self,
        config: Config,
        *,
        pool_size: int,
        application_name: str,
        statement_seconds: float | None = None,
    ) -> None:
        seconds = statement_seconds or config.database_timeout_seconds
        self.silence_seconds = seconds + GRACE_SECONDS
        self.engine = create_engine(
            config.database_uri.replace("postgresql://", "postgresql+psycopg2://", 1),
            # For good: changing a connection's mode costs a round trip each time.
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=0,
            pool_use_lifo=True,
            # Every block below ends its transaction itself.
            pool_reset_on_return=None,
            connect_args=with_option(session(application_name, seconds), GENERIC_PLANS),
            json_serializer=lambda value: encryption.dumps_members(value).decode(),
            json_deserializer=encryption.loads_members,
        )
        self.pool = cast(QueuePool, self.engine.pool)
        self.places: Places[Held] = Places(pool_size)
        """As many as the pool has connections: nobody waits there. In some are those of `direct`,
        which keeps them: to check one out and in takes as long as a small query."""
        self._patience_seconds = min(POOL_SECONDS, seconds)
        event.listen(self.engine, "connect", self._watch)
        event.listen(self.engine, "close", stop_watching)
        event.listen(self.engine, "checkout", refuse_dead_connection)
        event.listen(self.engine, "before_cursor_execute", renew_wait)
        event.listen(self.engine, "handle_error", leave_read_only_server)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Several statements, all or nothing: commits at the end of the block."""
        try:
            with self._connected() as connection, begun(connection):
                yield connection
        except sqlalchemy_errors.DBAPIError as error:
            raise translate(error) from error

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """Statements that each stand alone, committed one by one."""
        try:
            with self._connected() as connection:
                yield connection
        except sqlalchemy_errors.DBAPIError as error:
            raise translate(error) from error

    @contextmanager
    def direct(self) -> Iterator["Direct"]:
        """As `statement`, for the few texts on whose latency a run's start and end hang.

        The pool is SQLAlchemy's, its execution layer stays out: on an idle machine that layer costs
        a millisecond a statement, more than Postgres itself. Texts are planned once and kept: they
        must be constants of their modules.
        """
        held = self._take()
        is_sound = False
        try:
            with held.line, held.connection.cursor() as cursor:
                yield Direct(cursor, held.plans, held.line)
            is_sound = not held.connection.closed
            held.used_at = time.monotonic()
        except psycopg2.Error as error:
            held.pooled.invalidate(error)
            if is_passing(error):
                raise DatabaseUnavailable("the database is not available") from error
            raise
        finally:
            if not is_sound:
                held.pooled.close()
            self.places.give(held if is_sound else None)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection of SQLAlchemy's, watched."""
        # A connection that `direct` has left is used before another is opened.
        left = self._stand_in_line(
            self.places.take_empty if self.pool.checkedin() else self.places.take
        )
        try:
            if left is not None:
                left.pooled.close()
            with self.engine.connect() as connection, connection.info[LINE]:
                yield connection
        finally:
            self.places.give(None)

    def _take(self) -> "Held":
        """A connection for `direct`: one that was left and lives, or one of the pool's."""
        held = self._stand_in_line(self.places.take)
        try:
            if held is not None and held.is_dead():
                held.pooled.invalidate()
                held.pooled.close()
                held = None
            return held or self._check_out()
        except BaseException:
            self.places.give(None)
            raise

    def _stand_in_line(self, take: "Callable[[float], Held | None]") -> "Held | None":
        try:
            return take(self._patience_seconds)
        except queue.Empty as error:
            raise DatabaseUnavailable("every connection to the database is in use") from error

    def _check_out(self) -> "Held":
        try:
            pooled = self.engine.raw_connection()
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            # The pool passes on what the driver raises, in the driver's own words.
            raise DatabaseUnavailable("the database is not available") from error
        info = pooled.info
        return Held(pooled, pooled.driver_connection, info[LINE], info.setdefault(PLANS, {}))

    def _watch(self, connection: Any, record: Any) -> None:
        record.info[LINE] = Line(connection.fileno(), self.silence_seconds)

    def close(self) -> None:
        """Close every idle connection."""
        for held in self.places.clear():
            held.pooled.close()
        self.engine.dispose()


@dataclass(slots=True)
class Held:
    """A connection that was checked out, with what `direct` needs of it."""

    pooled: PoolProxiedConnection
    connection: Any
    """The driver's."""
    line: Line
    plans: dict[str, float]
    used_at: float = 0.0
    """When it answered last, by the monotonic clock."""

    def is_dead(self) -> bool:
        """Whether it was closed, by us or by the server.

        One that has just answered is not asked: to look takes a system call, for which a thread
        lets go of the interpreter. Dying at this very moment it would fail in any case.
        """
        if self.connection.closed:
            return True
        is_fresh = time.monotonic() - self.used_at < FRESH_SECONDS
        return not is_fresh and has_news(self.connection.fileno())


class Direct:
    """Executes texts on the driver's own cursor; answers like a Connection, as far as they need."""

    _prepared: ClassVar[dict[TextClause, PreparedText]] = {}

    def __init__(self, cursor: Any, plans: dict[str, float], line: Line) -> None:
        self.cursor = cursor
        self.plans = plans
        self.line = line

    def execute(self, statement: TextClause, parameters: Mapping[str, Any]) -> "DirectResult":
        """Run one text; its rows have attributes, bytea columns are memoryviews."""
        prepared = self._prepared.get(statement)
        if prepared is None:
            prepared = self._prepared[statement] = PreparedText(statement)
        self.line.renew()
        cursor = self.cursor
        cursor.execute(prepared.sql(self.plans, time.monotonic()), parameters)
        if cursor.description is None:
            return DirectResult()
        if (make := prepared.make_row) is None:
            make = prepared.make_row = row_maker(cursor.description)
        return DirectResult(map(make, cursor.fetchall()))


def row_maker(description: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
    """Give rows attributes: their columns are the same whenever a text is executed."""
    make_type: Callable[..., Any] = namedtuple  # noqa: PYI024 (the names come at run time)
    names = [column.name for column in description]
    make_row: Callable[[Sequence[Any]], Any] = make_type("Row", names, rename=True)._make
    return make_row


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


def with_option(connect_args: dict[str, Any], option: str) -> dict[str, Any]:
    """Add a setting to those that a connection is opened with."""
    return {**connect_args, "options": f"{connect_args['options']} {option}"}


@contextmanager
def begun(connection: Connection) -> Iterator[None]:
    """A transaction on a connection that commits by itself."""
    connection.exec_driver_sql("BEGIN")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        # A connection in doubt goes back to nobody.
        if not connection.closed and not connection.invalidated:
            roll_back(connection)
        raise


def roll_back(connection: Connection) -> None:
    """End a transaction without a trace; a connection that cannot is given up."""
    try:
        connection.exec_driver_sql("ROLLBACK")
    except sqlalchemy_errors.DBAPIError:
        connection.invalidate()


def refuse_dead_connection(connection: Any, _record: Any, _proxy: Any) -> None:
    """Make the pool replace a connection that the server has closed, without a round trip."""
    if has_news(connection.fileno()):
        raise sqlalchemy_errors.DisconnectionError


def find_poll() -> Callable[[], "select.poll"]:
    """What the system has, also in a process that gevent has patched: this never waits."""
    patches = sys.modules.get("gevent.monkey")
    return patches.get_original("select", "poll") if patches else select.poll


new_poll = find_poll()


def has_news(descriptor: int) -> bool:
    """Whether an idle connection has something to read: the end of the stream, or a farewell."""
    # Not select(): it refuses descriptors from 1024 on, which a web process with many streams has.
    look = new_poll()
    look.register(descriptor, select.POLLIN)
    return bool(look.poll(0))


def leave_read_only_server(context: ExceptionContext) -> None:
    """Give up connections to a server that has become a standby: the primary is elsewhere by now.

    A session stays read-only for as long as it lives, also when the server has long been healed.
    """
    if getattr(context.original_exception, "pgcode", None) == READ_ONLY:
        context.is_disconnect = True


def renew_wait(connection: Connection, *_: Any) -> None:
    """Give each statement of a block its own time."""
    if (line := connection.info.get(LINE)) is not None:
        line.renew()


def stop_watching(_connection: Any, record: Any) -> None:
    """Forget a connection that is about to be closed."""
    if (line := record.info.pop(LINE, None)) is not None:
        line.close()


def translate(error: sqlalchemy_errors.SQLAlchemyError) -> Exception:
    """Name a passing trouble DatabaseUnavailable; hand anything else back as it is."""
    if isinstance(error, sqlalchemy_errors.DBAPIError) and is_transient(error):
        return DatabaseUnavailable("the database is not available")
    return error


def is_transient(error: sqlalchemy_errors.DBAPIError) -> bool:
    """Tell whether the same statement may succeed a moment later."""
    return error.connection_invalidated or is_passing(error.orig)


def is_passing(error: BaseException | None) -> bool:
    """The same of the driver's own error."""
    if state := getattr(error, "pgcode", None):
        return is_passing_state(state)
    return isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)


def is_passing_state(state: str) -> bool:
    """The same of a SQLSTATE."""
    return state.startswith(TRANSIENT_CLASSES) or state in TRANSIENT_STATES


def install_wait_callback() -> None:
    """Let psycopg2 wait in gevent's loop; without it one slow query stops every stream.

    Process-wide: only for a monkey-patched web process. COPY does not work with it.
    """
    from gevent.socket import wait_read, wait_write  # noqa: PLC0415 (gevent belongs to web alone)

    def wait(connection: Any) -> None:
        # libpq's connect_timeout is for connections that block; later on, its line ends the wait.
        is_new = connection.status == psycopg2.extensions.STATUS_SETUP
        seconds = CONNECT_SECONDS if is_new else None
        late = psycopg2.OperationalError("the server did not answer in time")
        while True:
            match connection.poll():
                case psycopg2.extensions.POLL_OK:
                    return
                case psycopg2.extensions.POLL_READ:
                    wait_read(connection.fileno(), timeout=seconds, timeout_exc=late)
                case psycopg2.extensions.POLL_WRITE:
                    wait_write(connection.fileno(), timeout=seconds, timeout_exc=late)

    psycopg2.extensions.set_wait_callback(wait)
