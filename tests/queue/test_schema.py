"""The migrations and the table definitions say the same; the schema repeats the state machine."""

from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from greenroom.database.engine import Database
from greenroom.database.tables import metadata
from greenroom.identifiers import new_id
from greenroom.queue.admission import NewRun, NewThread, admit_run
from greenroom.queue.states import TERMINAL


def test_migrations_make_the_tables_that_the_code_describes(database: Database) -> None:
    """Neither a column nor a type differs; indexes and checks live in the migrations alone."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_name": lambda name, kind, _parents: (
                    kind not in {"index", "unique_constraint"}
                    and (kind != "table" or name in metadata.tables)
                ),
                "compare_server_default": False,
            },
        )
        found = [
            change for change in compare_metadata(context, metadata) if "index" not in change[0]
        ]
    assert found == []


def test_a_thread_cannot_have_two_runs_in_its_slot(database: Database) -> None:
    """One running run per thread is the database's law, not good manners."""
    thread_id = uuid4()
    with database.transaction() as connection:
        for _ in range(2):
            run = NewRun(new_id(), thread_id, uuid4(), "g", "enqueue", {}, b"{}", {})
            admit_run(connection, run, NewThread({}, is_temporary=False))
    with pytest.raises(IntegrityError, match="run_slot"), database.transaction() as connection:
        connection.execute(
            text("UPDATE run SET queue_state = 'ready' WHERE thread_id = :thread_id"),
            {"thread_id": thread_id},
        )


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_terminal_run_must_say_when_it_ended(database: Database, status: str) -> None:
    """A status without its instant is refused."""
    thread_id = uuid4()
    with database.transaction() as connection:
        run = NewRun(new_id(), thread_id, uuid4(), "g", "enqueue", {}, b"{}", {})
        admit_run(connection, run, NewThread({}, is_temporary=False))
    with pytest.raises(IntegrityError), database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE run SET status = :status, queue_state = NULL WHERE thread_id = :thread_id"
            ),
            {"status": status, "thread_id": thread_id},
        )
