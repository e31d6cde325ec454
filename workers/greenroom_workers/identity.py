"""Who a worker is, in a form that tells others on the same machine whether it still lives."""

import hashlib
import os
import socket
from pathlib import Path
from uuid import uuid4

PROC = Path("/proc")
ENDED = frozenset("ZXx")
"""States of proc(5) in which a process will never run again."""


def make_worker_id() -> str:
    """An id for this process: `host:pid:kernel-start-random`.

    `kernel` names the running kernel and the set of process ids, so that equal host names of two
    containers are told apart; `start` tells our pid from a later one. Both are empty off Linux.
    """
    pid = os.getpid()
    host = socket.gethostname().replace(":", "_")
    return f"{host}:{pid}:{kernel_id()}-{started(pid) or ''}-{uuid4().hex[:8]}"


def is_dead(worker_id: str) -> bool:
    """Whether a worker has certainly ended. Of one on another machine nobody here knows."""
    parts = worker_id.split(":")
    if len(parts) != 3:  # noqa: PLR2004 (host, pid, rest)
        return False
    kernel, _, rest = parts[2].partition("-")
    start = rest.partition("-")[0]
    if not kernel or not start or kernel != kernel_id() or not parts[1].isdigit():
        return False
    return started(int(parts[1])) != start


def kernel_id() -> str:
    """Name this kernel and this set of process ids; empty where that cannot be known."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_bytes()
        namespace = (PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return hashlib.blake2b(boot + str(namespace).encode(), digest_size=4).hexdigest()


def started(pid: int) -> str | None:
    """When a living process began, in ticks of this kernel; None when it has ended."""
    try:
        status = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold anything.
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in ENDED else fields[19]
