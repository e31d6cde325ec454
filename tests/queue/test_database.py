"""The blocks that a Database hands out, and what they leave behind."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from deployment import until
from sqlalchemy import Connection, text

from greenroom.cli.engine import free_port
from greenroom.config import Config, Project
from greenroom.database.engine import FRESH_SECONDS, Database
from greenroom.database.silence import TICK_SECONDS, WATCH, Line
from greenroom.errors import DatabaseUnavailable

CUT = text("SELECT pg_terminate_backend(pg_backend_pid()) AS cut")
MAKE = text("INSERT INTO thread (thread_id, metadata) VALUES (:thread_id, '{}')")
COUNT = text("SELECT count(*) AS n FROM thread WHERE thread_id = :thread_id")

BACKEND = text("SELECT pg_backend_pid() AS pid")


class Refused(Exception):
    """Raised inside a block."""


def make(connection: Connection, thread_id: UUID) -> None:
    connection.execute(MAKE, {"thread_id": thread_id})


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def open_database(uri: str, **options: float) -> Database:
    config = Config(
        database_uri=uri, redis_uri="redis://unused", project=Project(directory=Path(), graphs={})
    )
    return Database(config, pool_size=2, application_name="tests", **options)


def count(database: Database, thread_id: UUID) -> int:
    with database.direct() as connection:
        found: int = connection.execute(COUNT, {"thread_id": thread_id}).one().n
        return found


@pytest.mark.parametrize("block", ["direct", "statement", "transaction"])
def test_a_block_that_raises_leaves_the_connection_as_it_was(single: Database, block: str) -> None:
    """A transaction after it still commits all or nothing."""
    with pytest.raises(Refused), getattr(single, block)():
        raise Refused
    thread_id = uuid4()
    with pytest.raises(Refused), single.transaction() as connection:
        make(connection, thread_id)
        raise Refused
    assert count(single, thread_id) == 0


def test_a_direct_block_commits_each_statement(single: Database) -> None:
    """Nothing waits for the end of the block."""
    thread_id = uuid4()
    with single.direct() as connection:
        assert list(connection.execute(MAKE, {"thread_id": thread_id})) == []
    assert count(single, thread_id) == 1


@pytest.mark.parametrize("block", ["direct", "statement", "transaction"])
def test_a_cut_connection_is_named_and_replaced(single: Database, block: str) -> None:
    """The caller is told that the database is away; the next block has a connection again."""
    with pytest.raises(DatabaseUnavailable), getattr(single, block)() as connection:
        connection.execute(CUT, {})
    assert count(single, uuid4()) == 0


def test_connections_that_go_leave_no_descriptor_behind(database_uri: str) -> None:
    """Each connection's watch has a descriptor of its own: it goes with the connection."""
    before = count_descriptors()
    for _ in range(3):
        opened = open_database(database_uri)
        with opened.direct() as one, opened.statement() as other:
            assert one.execute(COUNT, {"thread_id": uuid4()}).one().n == 0
            assert len(other.execute(COUNT, {"thread_id": uuid4()}).all()) == 1
        with pytest.raises(DatabaseUnavailable), opened.statement() as connection:
            connection.execute(CUT)
        opened.close()
    assert count_descriptors() == before


def test_a_connection_may_rest_for_longer_than_an_answer_may_take(database_uri: str) -> None:
    """Only a wait is broken off: what a pool keeps is not."""
    opened = open_database(database_uri, statement_seconds=0.5)
    with opened.direct() as connection:
        backend = connection.execute(BACKEND, {}).one().pid
    # That nothing happens is told by no event.
    time.sleep(opened.silence_seconds + 2 * TICK_SECONDS)
    with opened.direct() as connection:
        assert connection.execute(BACKEND, {}).one().pid == backend
    opened.close()


@pytest.mark.parametrize("block", ["direct", "statement", "transaction"])
def test_a_server_that_is_not_there_is_named_like_any_passing_trouble(block: str) -> None:
    """Whichever block finds out: requests answer 503, workers come again."""
    absent = open_database(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with pytest.raises(DatabaseUnavailable), getattr(absent, block)():
        pytest.fail("nobody is there")
    absent.close()


def test_a_line_that_comes_while_the_watch_sleeps_is_watched_at_once() -> None:
    """The watch sleeps until its lines can be overdue; one with less patience wakes it."""
    ours, theirs = socket.socketpair()
    patient = Line(ours.fileno(), 3600)
    until(lambda: WATCH._look_at > time.monotonic() + 10)
    hasty = Line(ours.fileno(), 2 * TICK_SECONDS)
    theirs.settimeout(10)
    with hasty:
        assert theirs.recv(1) == b""
    for one in (patient, hasty):
        one.close()
    ours.close()
    theirs.close()


def pid(connection: Any) -> int:
    """The session behind a block."""
    found: int = connection.execute(BACKEND, {}).one().pid
    return found


def test_a_spare_connection_is_used_again_and_given_up_for_a_block(database_uri: str) -> None:
    """`direct` keeps its connections; blocks get them when the pool has no other."""
    database = open_database(database_uri)
    try:
        with database.direct() as one, database.direct() as other:
            pids = {pid(one), pid(other)}
        with database.direct() as again:
            assert pid(again) in pids
        with database.transaction() as one, database.statement() as other:
            assert {pid(one), pid(other)} == pids
        assert len(pids) == 2
    finally:
        database.close()


def test_a_block_that_waits_gets_the_connection_of_a_direct_one(database_uri: str) -> None:
    """It stands in the same line as others, whatever kind of block they are."""
    database = open_database(database_uri)
    try:
        with ThreadPoolExecutor(1) as threads, database.direct() as one:
            with database.direct() as other:

                def block() -> int:
                    with database.statement() as connection:
                        return pid(connection)

                waiting = threads.submit(block)
                until(lambda: database.places.waiting)
                used = pid(other)
            assert waiting.result(timeout=5) == used
            assert pid(one) != used
    finally:
        database.close()


def test_a_spare_connection_that_was_cut_is_replaced(database_uri: str) -> None:
    """Nobody meets a session that Postgres has ended meanwhile."""
    database, other = open_database(database_uri), open_database(database_uri)
    try:
        with database.direct() as connection:
            lost = pid(connection)
        with other.statement() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": lost})
        # One that has just answered is not looked at.
        time.sleep(FRESH_SECONDS)
        with database.direct() as connection:
            assert pid(connection) != lost
    finally:
        database.close()
        other.close()


def test_everybody_in_line_has_a_turn(database_uri: str) -> None:
    """Whatever blocks they want, more threads than connections all come through, and on no more."""
    database, turns, seen = open_database(database_uri), 60, set()

    def work(number: int) -> None:
        for turn in range(turns):
            block = ("direct", "statement", "transaction")[(number + turn) % 3]
            fails = pytest.raises(Refused) if turn % 10 == number else nullcontext()
            with fails, getattr(database, block)() as connection:
                seen.add(pid(connection))
                if turn % 10 == number:
                    raise Refused

    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert len(seen) <= 2
        assert not database.places.waiting
        # None was lost on the way.
        with database.direct() as one, database.transaction() as other:
            assert pid(one) != pid(other)
    finally:
        database.close()


def test_who_waits_in_vain_is_told(database_uri: str) -> None:
    """After the time that a statement may take, as if the database were away."""
    database = open_database(database_uri, statement_seconds=0.3)
    try:
        with database.direct(), database.statement():
            for block in ("direct", "statement", "transaction"):
                with (
                    pytest.raises(DatabaseUnavailable, match="in use"),
                    getattr(database, block)(),
                ):
                    pytest.fail("there are two connections")
        with database.direct() as one, database.direct() as other:
            assert pid(one) != pid(other)
    finally:
        database.close()
