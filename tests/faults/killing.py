"""Ends of processes without warning, exactly where a scenario wants them."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from deployment import Deployment, until
from sqlalchemy import Connection, text


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL one process, and wait until it is gone."""
    process.kill()
    process.wait()


def kill_web(deployment: Deployment, url: str) -> None:
    """SIGKILL a web process with all that belongs to it, as a lost machine takes them."""
    process = deployment.webs.pop(url)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        # Stopped first: none shall see another one's end and say goodbye to its clients.
        member.suspend()
    for member in family:
        member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)


def serving_process(deployment: Deployment, url: str) -> psutil.Process:
    """The process under `greenroom web` that answers requests."""
    listeners = [
        child
        for child in psutil.Process(deployment.webs[url].pid).children(recursive=True)
        if "gunicorn" in " ".join(child.cmdline()) and not child.children()
    ]
    (found,) = listeners
    return found


def suspend(pid: int) -> None:
    """SIGSTOP a process, and wait until it stands."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


@contextmanager
def transaction(deployment: Deployment) -> Iterator[Connection]:
    """A transaction of our own, for locks that make the processes wait where we want them."""
    with deployment.database.transaction() as connection:
        # Ours may stand idle for longer than the product allows itself.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield connection


def lock_thread(connection: Connection, thread_id: str) -> None:
    """Hold a thread's row, so that nobody ends a run of it or lets one in."""
    connection.execute(
        text("SELECT 1 FROM thread WHERE thread_id = CAST(:thread_id AS uuid) FOR UPDATE"),
        {"thread_id": thread_id},
    )


def wait_for_waiter(deployment: Deployment, statement: str, since: str | None = None) -> None:
    """Wait until a process waits for a lock within a statement that contains a text.

    Args:
        since: an instant of Postgres's clock before which the statement was not sent.
    """
    query = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND pid <> pg_backend_pid() AND query LIKE '%' || :statement || '%' "
        "AND query_start > coalesce(CAST(:since AS timestamptz), '-infinity')"
    )
    until(lambda: deployment.value(query, statement=statement, since=since))
