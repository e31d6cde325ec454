"""Starting processes that cannot outlive us."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

from greenroom.cli.environment import take_environment

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
HANDOVER_SECONDS = 0.001
"""Between two looks of a child whose parent is about to end."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGURG)
"""What a forked child must not inherit a handler for."""
# Looked up here, not in the child: between fork and exec as little as possible may happen.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class Account(NamedTuple):
    """The user that a process runs as."""

    uid: int
    gid: int


def die_with_parent(death_signal: signal.Signals, parent_pid: int) -> None:
    """Have the kernel send us `death_signal` when the thread that started us ends (Linux only)."""
    if _prctl is None:
        return
    _prctl(PR_SET_PDEATHSIG, int(death_signal))
    # The parent may have died before it could be watched.
    if os.getppid() != parent_pid:
        os._exit(1)


def spawn(
    argv: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    environment: Mapping[str, str] | None = None,
    account: Account | None = None,
    directory: Path | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    output: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, tied to our life.

    A session of its own: Ctrl-C in a terminal reaches us alone, and we decide who stops when.

    Args:
        death_signal: what the kernel sends it when we are gone, also by SIGKILL.
        account: whom to become; None stays who we are.
        directory: the working directory; None stays in ours.
        output: where standard output and error go; None inherits ours.
    Raises:
        OSError: the program cannot be started.
        RuntimeError: called outside the main thread, whose end alone may set off the death signal.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children are started from the main thread")
    return subprocess.Popen(  # noqa: S603 (fixed programs, no shell)
        argv,
        env=environment,
        cwd=directory,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        # Runs after the change of user, which would clear the death signal.
        preexec_fn=partial(  # noqa: PLW1509 (two system calls, no lock)
            die_with_parent, death_signal, os.getpid()
        ),
    )


class Forked:
    """A child that was forked: what a supervisor needs of a Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def send_signal(self, number: int) -> None:
        """Send a signal; its id is the child's until `wait`."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end and reap it; the exit code, negative after a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


Process = subprocess.Popen[bytes] | Forked


def fork(
    call: Callable[[], None],
    name: str,
    *,
    death_signal: signal.Signals,
    environment: Mapping[str, str],
    heir_pid: int | None = None,
    kept_fd: int | None = None,
) -> Forked:
    """As `spawn`, for a child that begins with all that we have imported, and runs `call`.

    Args:
        name: for the process list.
        heir_pid: who takes the child over when we end, and whose end it must not outlive; it does
            nothing before. None: it is tied to us.
        kept_fd: the only file but standard input and output that it keeps open; None: none.
    Raises:
        OSError: there is no room for a process.
        RuntimeError: called outside the main thread, or beside others, whose locks would stay
            taken in the child for ever.
    """
    if threading.current_thread() is not threading.main_thread() or threading.active_count() > 1:
        raise RuntimeError("children are forked from a process with one thread")
    parent_pid = os.getpid()
    # Until the child has handlers of its own, it must not answer a signal with ours.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(call, name, death_signal, environment, parent_pid, heir_pid, kept_fd)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Forked(pid)


def _be_child(
    call: Callable[[], None],
    name: str,
    death_signal: signal.Signals,
    environment: Mapping[str, str],
    parent_pid: int,
    heir_pid: int | None,
    kept_fd: int | None,
) -> NoReturn:
    code: object = 1
    try:
        os.setsid()
        # As `exec` would: a lock on a file is held by whoever has it open.
        if kept_fd is None:
            kept_fd = 2
        os.closerange(3, kept_fd)
        os.closerange(kept_fd + 1, os.sysconf("SC_OPEN_MAX"))
        while heir_pid is not None and os.getppid() == parent_pid:
            time.sleep(HANDOVER_SECONDS)
        die_with_parent(death_signal, heir_pid or parent_pid)
        if _prctl is not None:
            _prctl(PR_SET_NAME, name.encode())
        signal.set_wakeup_fd(-1)
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        take_environment(environment)
        sys.argv[1:] = []
        call()
        code = 0
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    except BaseException:  # noqa: BLE001 (there is nobody above us: we are another process)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def kill_group(process: Process) -> None:
    """SIGKILL a child and what it has started. Its id is ours only until it is reaped."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def has_ended(process: Process) -> bool:
    """Tell whether a child has ended, without reaping it."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, flags) is not None
