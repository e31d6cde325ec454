"""Starting processes that cannot outlive us."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

PR_SET_PDEATHSIG = 1
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


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a child and what it has started. Its id is ours only until it is reaped."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a child has ended, without reaping it."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, flags) is not None
