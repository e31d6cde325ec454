"""Events that are kept while a request holds the lock of their thread."""

from uuid import uuid4

import httpx
from deployment import Deployment
from killing import lock_thread, transaction, wait_for_waiter
from numbered import read_runs, start_run
from sqlalchemy import text


def test_events_wait_for_a_threads_lock_with_nothing_in_their_hands(
    server: Deployment, http: httpx.Client
) -> None:
    """Whoever locks a thread goes on to its runs: a worker that held one would be a deadlock."""
    thread_id = str(uuid4())
    words = " ".join("abcdefghijklmnop")
    asked = {"messages": [{"role": "user", "content": words}]}
    run_id = start_run(http, thread_id, "slow_chat", input=asked)
    with transaction(server) as connection:
        lock_thread(connection, thread_id)
        wait_for_waiter(server, "INSERT INTO thread_event")
        connection.execute(text("SET LOCAL lock_timeout = '300ms'"))
        touched = connection.execute(
            text("UPDATE run SET updated_at = now() WHERE run_id = CAST(:run_id AS uuid)"),
            {"run_id": run_id},
        )
        assert touched.rowcount == 1
    read_runs(http, thread_id)
