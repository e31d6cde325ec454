"""Keeps named children running: restarts the dead, forwards the stop, leaves nobody behind."""

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from greenroom.cli.processes import Process, fork, has_ended, kill_group, spawn
from greenroom.logs import get_logger

log = get_logger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STABLE_SECONDS = 10.0
"""A child that lived this long has started well: its next death begins a new series of delays."""
ECHO_SECONDS = 0.3
"""A terminal and a wrapper such as `make` may both pass on one Ctrl-C."""
REQUEST = b"\0"
"""On the wake-up socket beside the signals' numbers, none of which is 0."""


@dataclass(frozen=True, slots=True)
class Command:
    """One program to keep running.

    It must end by itself within the supervisor's grace once it has SIGTERM. When we are killed
    nobody is left to enforce that, so a program that cannot promise it takes SIGKILL.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    death_signal: signal.Signals = signal.SIGTERM
    """What the kernel sends it when we are gone."""
    stops_after: tuple[str, ...] = ()
    """Commands that need this one to the end: at a stop it keeps running until they are gone."""
    call: Callable[[], None] | None = None
    """What a forked child runs in place of `argv`, for as long as our process has one thread."""
    kept_fd: int | None = None
    """What that child keeps open besides standard input and output."""
    take: Callable[[str], Process | None] | None = None
    """What may have started it already, under its name; asked at each start."""

    def start(self) -> Process:
        """Start a process.

        Raises:
            OSError: it cannot be started.
        """
        if self.take is not None and (taken := self.take(self.name)) is not None:
            return taken
        if self.call is None or (self.argv and threading.active_count() > 1):
            return spawn(self.argv, death_signal=self.death_signal, environment=self.environment)
        return fork(
            self.call,
            self.name,
            death_signal=self.death_signal,
            environment=self.environment,
            kept_fd=self.kept_fd,
        )


@dataclass(slots=True)
class Child:
    """A command and its current process."""

    command: Command
    process: Process | None = None
    """None between an end and the next start."""
    started_at: float = 0.0
    failures: int = 0
    """Deaths in a row, each soon after its start."""
    start_at: float | None = 0.0
    """When to start it; None while it runs, and when only `restart` may."""
    kill_at: float | None = None
    """Set with SIGTERM: when patience ends."""


class Supervisor:
    """Runs commands until a signal, or until one of them ends with EX_CONFIG.

    Lives on the main thread (signals, death signals); `restart` may be called from any.
    """

    def __init__(self, commands: Sequence[Command], grace_seconds: float) -> None:
        self.children = {command.name: Child(command) for command in commands}
        self.grace_seconds = grace_seconds
        self.holds_misconfigured = False
        """True: a child that ends with EX_CONFIG waits for `restart`; False: it ends everything."""
        self.exit_code = 0
        self._stop_asked_at: float | None = None
        self._requests: SimpleQueue[str] = SimpleQueue()
        self._wakeup, self._wakeup_in = socket.socketpair()
        self._wakeup.settimeout(0)
        self._wakeup_in.settimeout(0)

    def restart(self, name: str) -> None:
        """Stop a child gracefully and start it again; start it at once if it is down."""
        self._requests.put(name)
        # A full socket: the loop is about to wake anyway. A closed one: it has ended.
        with suppress(BlockingIOError, OSError):
            self._wakeup_in.send(REQUEST)

    def send_signal(self, name: str, number: int) -> None:
        """Send a child a signal, if it runs."""
        process = self.children[name].process
        # It may have ended a moment ago.
        with suppress(ProcessLookupError):
            if process:
                process.send_signal(number)

    def run(self, on_started: Callable[[], None] = lambda: None) -> int:
        """Start everything and stay until all has ended. Returns the exit code for the process.

        Args:
            on_started: called once everything has been started; it may start threads.
        """
        with self._signals_to_wakeup():
            self._start_due()
            on_started()
            while True:
                self._start_due()
                if self._stop_asked_at is not None and not self._running():
                    break
                self._wait()
                self._reap()
                self._restart_requested()
                self._stop_in_order()
                self._kill_overdue()
        self._wakeup.close()
        self._wakeup_in.close()
        return self.exit_code

    @contextmanager
    def _signals_to_wakeup(self) -> Iterator[None]:
        watched = [*STOP_SIGNALS, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup
            watched.remove(signal.SIGHUP)
        before = {number: signal.signal(number, lambda *_: None) for number in watched}
        old_fd = signal.set_wakeup_fd(self._wakeup_in.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _running(self) -> list[Child]:
        return [child for child in self.children.values() if child.process]

    def _wait(self) -> None:
        """Sleep until a signal, a request or the next deadline."""
        times = [
            at for child in self.children.values() for at in (child.start_at, child.kill_at) if at
        ]
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup, selectors.EVENT_READ)
            if not selector.select(timeout):
                return
        for number in self._wakeup.recv(4096):
            if number in STOP_SIGNALS:
                self._ask_to_stop(signal.Signals(number))

    def _ask_to_stop(self, reason: signal.Signals) -> None:
        now = time.monotonic()
        if self._stop_asked_at is None:
            log.info("stopping", signal=reason.name)
            self._begin_stop()
        elif reason == signal.SIGINT and now - self._stop_asked_at > ECHO_SECONDS:
            log.warning("stopping at once", signal=reason.name)
            for child in self._running():
                child.kill_at = now

    def _begin_stop(self) -> None:
        self._stop_asked_at = time.monotonic()
        for child in self.children.values():
            child.start_at = None

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self.children.values():
            if child.start_at is not None and child.start_at <= now:
                self._start(child)

    def _start(self, child: Child) -> None:
        command = child.command
        child.start_at, child.started_at = None, time.monotonic()
        try:
            child.process = command.start()
        except OSError as error:
            log.warning("cannot start", child=command.name, error=str(error))
            self._start_later(child)

    def _reap(self) -> None:
        for child in self._running():
            process = child.process
            if process is None or not has_ended(process):
                continue
            # Whatever it has started is an orphan now: a gunicorn worker would hold the port.
            kill_group(process)
            self._after_end(child, process.wait())

    def _after_end(self, child: Child, code: int) -> None:
        log.debug("child ended", child=child.command.name, exit_code=code)
        was_told, child.process, child.kill_at = child.kill_at is not None, None, None
        if self._stop_asked_at is not None:
            return
        if was_told:
            child.failures, child.start_at = 0, time.monotonic()
        elif code == os.EX_CONFIG and self.holds_misconfigured:
            log.error("waiting for a change", child=child.command.name, exit_code=code)
        elif code == os.EX_CONFIG:
            log.error("stopping: a child cannot be configured", child=child.command.name)
            self.exit_code = 1
            self._begin_stop()
        else:
            self._start_later(child)
            log.warning(
                "child died", child=child.command.name, exit_code=code, failures=child.failures
            )

    def _start_later(self, child: Child) -> None:
        now = time.monotonic()
        if now - child.started_at > STABLE_SECONDS:
            child.failures = 0
        delay = min(FIRST_DELAY_SECONDS * 2**child.failures, LONGEST_DELAY_SECONDS)
        child.failures += 1
        child.start_at = now + delay

    def _restart_requested(self) -> None:
        names: set[str] = set()
        with suppress(Empty):
            while True:
                names.add(self._requests.get_nowait())
        if self._stop_asked_at is not None:
            return
        for name in names:
            child = self.children[name]
            child.failures = 0
            if child.process:
                self._terminate(child)
            else:
                child.start_at = time.monotonic()

    def _stop_in_order(self) -> None:
        """Tell every child that nobody needs any more, the last started first."""
        if self._stop_asked_at is None:
            return
        running = self._running()
        names = {child.command.name for child in running}
        for child in reversed(running):
            if names.isdisjoint(child.command.stops_after):
                self._terminate(child)

    def _terminate(self, child: Child) -> None:
        if child.process and child.kill_at is None:
            child.kill_at = time.monotonic() + self.grace_seconds
            child.process.send_signal(signal.SIGTERM)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for child in self._running():
            if child.process and child.kill_at is not None and child.kill_at <= now:
                log.warning("killing", child=child.command.name, grace_seconds=self.grace_seconds)
                kill_group(child.process)
                # Its end arrives as SIGCHLD; no second deadline before that.
                child.kill_at = now + self.grace_seconds
