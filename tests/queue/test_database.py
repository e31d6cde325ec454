"""The blocks that a Database hands out, and what they leave behind."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from greenroom.database.engine import Database
from greenroom.errors import DatabaseUnavailable

CUT = text("SELECT pg_terminate_backend(pg_backend_pid()) AS cut")
MAKE = text("INSERT INTO thread (thread_id, metadata) VALUES (:thread_id, '{}')")
COUNT = text("SELECT count(*) AS n FROM thread WHERE thread_id = :thread_id")


class Refused(Exception):
    """Raised inside a block."""


def make(connection: Connection, thread_id: UUID) -> None:
    connection.execute(MAKE, {"thread_id": thread_id})


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
