"""Texts that are planned once for a connection."""

import re
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import TextClause, text

from greenroom.assistants.queries import FIND_FOR_RUN
from greenroom.database.engine import Database
from greenroom.database.prepared import LIFE_SECONDS, PreparedText
from greenroom.queue.admission import ADMIT_ON_NEW_THREAD
from greenroom.queue.statements import FINISH_WITH_CHECKPOINTS, STATEMENTS
from greenroom.threads.queries import RESTING_STATE

PLANS = text("SELECT name, prepare_time FROM pg_prepared_statements ORDER BY prepare_time")
ANSWER = text("SELECT CAST(:number AS integer) + CAST(:number AS integer) AS answer, '%' AS sign")
TYPES = "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = %(name)s"

TEXTS = {
    "assistant": FIND_FOR_RUN,
    "admit on a new thread": ADMIT_ON_NEW_THREAD,
    "state": RESTING_STATE,
    "finish with checkpoints": FINISH_WITH_CHECKPOINTS,
    **{
        name: STATEMENTS[name]
        for name in (
            "admit_run",
            "claim_run",
            "claim_suspect",
            "finish_run_if_owned",
            "finish_temporary_run_if_owned",
        )
    },
}
KINDS = {
    "assistant_updated_at": "timestamp with time zone",
    "base_metadata": "jsonb",
    "delay_seconds": "double precision",
    "end_seq": "integer",
    "first_event_seq": "bigint",
    "if_thread_status": "text[]",
    "is_heard": "boolean",
    "is_temporary": "boolean",
    "last_event_seq": "bigint",
    "priority": "smallint",
    "lease_seconds": "double precision",
    "lease_token": "bigint",
    "metadata": "jsonb",
    "new_thread_metadata": "jsonb",
    "result_seconds": "double precision",
    "thread_metadata": "jsonb",
    "ttl_minutes": "double precision",
} | {
    **dict.fromkeys(("run_id", "thread_id", "assistant_id"), "uuid"),
    **dict.fromkeys(("heads", "blobs", "writes"), "json"),
}
BYTES = frozenset(
    {
        *("config", "end_frame", "error", "interrupts", "kwargs", "output", "snapshot"),
        "spans",
        *("thread_error", "values"),
    }
)


def plans(database: Database) -> list[Any]:
    """The plans that the connection keeps."""
    with database.statement() as connection:
        return list(connection.execute(PLANS).all())


@pytest.mark.parametrize("statement", TEXTS.values(), ids=TEXTS)
def test_each_parameter_has_the_type_that_is_meant(single: Database, statement: TextClause) -> None:
    """Postgres guesses a type from a parameter's first place: half a second must not become 0."""
    with single.statement() as connection:
        for part in PreparedText(statement).parts:
            connection.exec_driver_sql(part.prepare.replace("%%", "%"))
            found = connection.exec_driver_sql(TYPES, {"name": part.name}).scalar_one()
            names = re.findall(r"%\((\w+)\)s", part.execute)
            expected = {
                name: "bytea" if name in BYTES else KINDS.get(name, "text") for name in names
            }
            assert dict(zip(names, found, strict=True)) == expected


def test_a_text_is_planned_once_for_a_connection(single: Database) -> None:
    """Later executions take the plan, also in blocks of their own."""
    for number in (1, 2, 3):
        with single.direct() as connection:
            row = connection.execute(ANSWER, {"number": number}).one()
            assert (row.answer, row.sign) == (2 * number, "%")
    assert len(plans(single)) == 1


def test_a_plan_does_not_grow_old(single: Database) -> None:
    """Tables grow, and a plan for a small one is a bad one then."""
    prepared, kept = PreparedText(ANSWER), dict[str, float]()
    times = []
    for now in (0, LIFE_SECONDS, LIFE_SECONDS + 1, 2 * LIFE_SECONDS):
        with single.statement() as connection:
            connection.exec_driver_sql(prepared.sql(kept, now), {"number": 1})
        (plan,) = plans(single)
        times.append(plan.prepare_time)
    assert times[0] == times[1] < times[2] == times[3]


def test_a_failure_leaves_no_plan_in_doubt(single: Database) -> None:
    """What failed at its first execution can be executed again."""
    thread_id = uuid4()
    broken = text("SELECT 1 / CAST(:number AS integer) AS answer")
    with pytest.raises(Exception, match="division by zero"), single.direct() as connection:
        connection.execute(broken, {"number": 0})
    with single.direct() as connection:
        assert connection.execute(broken, {"number": 1}).one().answer == 1
        assert connection.execute(RESTING_STATE, {"thread_id": thread_id, "scope": None}) == []
