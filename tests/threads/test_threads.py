"""Threads on a real database."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, StateSnapshot
from pydantic import ValidationError
from sqlalchemy import text

from greenroom import wire
from greenroom.database.engine import Database
from greenroom.errors import Conflict, ThreadNotFound
from greenroom.identifiers import new_id
from greenroom.queue.admission import NewRun, admit_run
from greenroom.queue.life import claim_run
from greenroom.threads import service
from greenroom.threads.schemas import (
    ThreadCount,
    ThreadCreate,
    ThreadPatch,
    ThreadPrune,
    ThreadSearch,
)

Graph = CompiledStateGraph[Any, Any, Any, Any]
RowsOf = Callable[[UUID], dict[str, int]]
LANGGRAPH_TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


def create(database: Database, **fields: Any) -> dict[str, Any]:
    made, _ = service.create(database, ThreadCreate.model_validate(fields))
    return made


def search(database: Database, **fields: Any) -> list[Any]:
    found, _ = service.search(database, ThreadSearch.model_validate(fields))
    rows: list[Any] = wire.loads(wire.dumps(found))
    return rows


def leave_state(database: Database, thread_id: UUID, **columns: Any) -> None:
    """What the end of a run would leave."""
    with database.statement() as connection:
        connection.execute(
            text(
                'INSERT INTO thread_state (thread_id, config, "values", interrupts, error, status) '
                "VALUES (:thread_id, :config, :values, :interrupts, :error, :status)"
            ),
            {
                "thread_id": thread_id,
                "config": None,
                "values": None,
                "interrupts": None,
                "error": None,
                "status": "idle",
                **columns,
            },
        )


def admit(database: Database, thread_id: UUID) -> UUID:
    run = NewRun(new_id(), thread_id, uuid4(), "one", "enqueue", {}, b"{}", {})
    with database.statement() as connection:
        admit_run(connection, run)
    return run.run_id


def config_of(thread_id: UUID) -> Any:
    return {"configurable": {"thread_id": str(thread_id)}}


def test_a_fresh_thread_has_exactly_the_documented_keys(database: Database) -> None:
    """No error and no interrupts before something has run."""
    made = create(database, metadata={"a": 1})
    assert list(made) == [
        "thread_id",
        "created_at",
        "updated_at",
        "state_updated_at",
        "metadata",
        "status",
        "config",
        "values",
    ]
    shown = wire.loads(wire.dumps(made))
    assert shown["values"] is None
    assert shown["config"] == {}
    assert shown == wire.loads(wire.dumps(service.get(database, made["thread_id"])))


def test_a_thread_that_ran_shows_what_was_left(database: Database) -> None:
    """The bytes go out as they are."""
    thread_id = create(database)["thread_id"]
    leave_state(
        database,
        thread_id,
        values=b'{"n": 1}',
        interrupts=b'{"t": []}',
        status="error",
        error=b'{"error": "E", "message": "m"}',
        config=b'{"tags": []}',
    )
    shown = wire.loads(wire.dumps(service.get(database, thread_id)))
    assert shown["values"] == {"n": 1}
    assert shown["interrupts"] == {"t": []}
    assert shown["error"] == {"error": "E", "message": "m"}
    assert shown["config"] == {"tags": []}


def test_a_taken_id_conflicts_unless_the_stored_one_will_do(database: Database) -> None:
    """Its metadata are not touched."""
    made = create(database, metadata={"a": 1})
    key = str(made["thread_id"])
    with pytest.raises(Conflict):
        create(database, thread_id=key)
    again, is_new = service.create(
        database, ThreadCreate(thread_id=key, if_exists="do_nothing", metadata={"b": 2})
    )
    assert not is_new
    assert wire.dumps(again) == wire.dumps(made)


def test_a_patch_merges_the_top_level_and_keeps_nulls(database: Database) -> None:
    """An empty one moves updated_at alone."""
    made = create(database, metadata={"a": {"x": 1}, "b": 1})
    key = made["thread_id"]
    patched = service.patch(
        database, key, ThreadPatch(metadata={"a": {"y": 2}, "b": None, "%s": "%(x)s :y"})
    )
    assert patched["metadata"] == {"a": {"y": 2}, "b": None, "%s": "%(x)s :y"}
    again = service.patch(database, key, ThreadPatch())
    assert made["updated_at"] < patched["updated_at"] < again["updated_at"]
    assert again["state_updated_at"] == made["state_updated_at"]
    with pytest.raises(ThreadNotFound):
        service.patch(database, uuid4(), ThreadPatch(metadata={}))


def test_nul_in_metadata_is_stored_as_a_replacement(database: Database) -> None:
    """Postgres has no NUL in text."""
    body = wire.loads(b'{"metadata": {"a\\u0000": ["\\u0000", "\\ud800"]}}')
    assert create(database, **body)["metadata"] == {"a\ufffd": ["\ufffd", "\ufffd"]}


def test_a_ttl_begins_at_creation_and_again_with_every_patch(database: Database) -> None:
    """A patch without minutes ends it."""
    made = create(database, ttl={"ttl": 60, "strategy": "keep_latest"})
    key = made["thread_id"]
    assert "ttl" not in made
    first = service.get(database, key, with_ttl=True)["ttl"]
    assert (first["strategy"], first["ttl_minutes"]) == ("keep_latest", 60)
    assert (first["expires_at"] - made["created_at"]).total_seconds() == 3600

    service.patch(database, key, ThreadPatch.model_validate({"ttl": {"ttl": 0.5}}))
    second = service.get(database, key, with_ttl=True)["ttl"]
    assert (second["strategy"], second["ttl_minutes"]) == ("delete", 0.5)
    assert second["expires_at"] < first["expires_at"]

    service.patch(database, key, ThreadPatch.model_validate({"ttl": {}}))
    assert service.get(database, key, with_ttl=True)["ttl"] is None


@pytest.mark.parametrize(
    "ttl",
    [
        5,
        None,
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": True},
        {"ttl": "5"},
        {"ttl": 1e300},
        {"ttl": None},
        {"strategy": "bogus"},
    ],
)
def test_an_impossible_ttl_is_refused(ttl: Any) -> None:
    """Before it reaches the database."""
    with pytest.raises(ValidationError):
        ThreadCreate.model_validate({"ttl": ttl})


def test_search_by_values_is_containment(database: Database) -> None:
    """Threads without values, or with a NUL in them, do no harm."""
    mark = str(uuid4())
    create(database)
    thread_id = create(database)["thread_id"]
    leave_state(
        database, thread_id, values=wire.dumps({"mark": mark, "deep": {"a": [1]}, "n": "\x00"})
    )
    found = search(database, values={"mark": mark, "deep": {"a": [1]}}, select=["thread_id"])
    assert found == [{"thread_id": str(thread_id)}]
    assert service.count(database, ThreadCount(values={"mark": mark})) == 1
    assert service.count(database, ThreadCount(values={"mark": mark, "no": 1})) == 0


def test_select_and_extract_read_what_they_name(database: Database) -> None:
    """Also fields that are extracted from and not selected."""
    thread_id = create(database, metadata={"a": {"b": 7}})["thread_id"]
    leave_state(database, thread_id, values=b'{"log": ["x", "y"]}', interrupts=b"{}")
    paths = {"b": "metadata.a.b", "last": "values.log[-1]", "none": "config.x"}
    (found,) = search(
        database, ids=[str(thread_id)], select=["status", "interrupts", "status"], extract=paths
    )
    assert found == {
        "status": "idle",
        "interrupts": {},
        "extracted": {"b": 7, "last": "y", "none": None},
    }
    (whole,) = search(database, ids=[str(thread_id)], extract={})
    assert whole["values"] == {"log": ["x", "y"]}
    assert "extracted" not in whole


def test_threads_of_stateless_runs_are_read_but_not_found(database: Database) -> None:
    """They belong to their run."""
    mark = str(uuid4())
    thread_id = create(database, metadata={"mark": mark})["thread_id"]
    with database.statement() as connection:
        connection.execute(
            text("UPDATE thread SET is_temporary = true WHERE thread_id = :thread_id"),
            {"thread_id": thread_id},
        )
    assert service.get(database, thread_id)["thread_id"] == thread_id
    assert search(database, metadata={"mark": mark}) == []
    assert service.count(database, ThreadCount(metadata={"mark": mark})) == 0


def test_many_ids_are_one_parameter(database: Database) -> None:
    """An empty list does not filter."""
    thread_id = create(database)["thread_id"]
    ids = [str(uuid4()) for _ in range(40_000)]
    found = search(database, ids=[*ids, str(thread_id)], select=["thread_id"])
    assert found == [{"thread_id": str(thread_id)}]
    assert search(database, ids=[], limit=1)


def test_deleting_a_busy_thread_leaves_no_row_anywhere(
    database: Database, ran: UUID, rows_of: RowsOf
) -> None:
    """And names the run whose worker does not know yet."""
    leave_state(database, ran, values=b"{}")
    run_id = admit(database, ran)
    with database.statement() as connection:
        while (claim := claim_run(connection, "a worker", 60)) and claim.lease.run_id != run_id:
            pass
        connection.execute(
            text(
                "INSERT INTO run_event (run_id, first_seq, last_seq, thread_id, frames) "
                "VALUES (:run_id, 1, 1, :thread_id, '')"
            ),
            {"run_id": run_id, "thread_id": ran},
        )
        connection.execute(
            text(
                "INSERT INTO thread_event (thread_id, first_seq, last_seq, run_id, spans) "
                "VALUES (:thread_id, 1, 1, :run_id, '')"
            ),
            {"run_id": run_id, "thread_id": ran},
        )
        connection.execute(
            text(
                "INSERT INTO idempotency_key "
                "(key, fingerprint, thread_id, run_id, response, expires_at) "
                "VALUES (gen_random_uuid(), '', :thread_id, :run_id, '{}', now())"
            ),
            {"run_id": run_id, "thread_id": ran},
        )
    admit(database, ran)
    before = rows_of(ran)
    assert {table for table, rows in before.items() if not rows} <= {"cron", "webhook_delivery"}

    assert service.delete(database, ran) == [run_id]

    assert set(rows_of(ran).values()) == {0}
    with pytest.raises(ThreadNotFound):
        service.delete(database, ran)


def test_a_copy_is_whole_and_goes_its_own_way(
    database: Database, ran: UUID, graph: Graph, rows_of: RowsOf
) -> None:
    """Same history and pending question under an id of its own; no runs."""
    leave_state(database, ran, values=b'{"n": 1}', interrupts=b'{"t": []}', status="interrupted")
    admit(database, ran)
    copied = service.copy(database, ran)
    copy_id = copied["thread_id"]

    assert copied["status"] == "interrupted"
    assert copied["metadata"] == {"origin": "yes"}
    theirs, ours = rows_of(ran), rows_of(copy_id)
    assert ours["run"] == 0
    assert [ours[name] for name in LANGGRAPH_TABLES] == [theirs[name] for name in LANGGRAPH_TABLES]
    originals = list(graph.get_state_history(config_of(ran)))
    copies = list(graph.get_state_history(config_of(copy_id)))
    assert [each.values for each in copies] == [each.values for each in originals]
    assert {str(each.metadata["thread_id"]) for each in copies if each.metadata} == {str(copy_id)}

    service.delete(database, ran)
    ended = graph.invoke(Command(resume="yes"), config_of(copy_id))
    assert ended["answer"] == "yes"
    with pytest.raises(ThreadNotFound):
        service.copy(database, uuid4())


def test_pruning_keeps_the_newest_checkpoint_and_what_it_needs(
    database: Database, ran: UUID, graph: Graph, rows_of: RowsOf
) -> None:
    """The pending question of the nested graph can still be answered; nothing unused stays."""
    before = graph.get_state(config_of(ran), subgraphs=True)

    count, _ = service.prune(
        database,
        ThreadPrune.model_validate({"thread_ids": [str(ran)] * 2, "strategy": "keep_latest"}),
    )

    assert count == 1
    after = graph.get_state(config_of(ran), subgraphs=True)
    assert after.values == before.values
    assert after.interrupts == before.interrupts
    (asking,), (asked,) = after.tasks, before.tasks
    assert isinstance(asking.state, StateSnapshot)
    assert isinstance(asked.state, StateSnapshot)
    assert (asking.id, asking.state.values) == (asked.id, asked.state.values)
    assert after.parent_config is None
    assert len(list(graph.get_state_history(config_of(ran)))) == 1
    # The root's, and the nested graph's.
    assert rows_of(ran)["checkpoints"] == 2
    with database.statement() as connection:
        unused = connection.execute(
            text(
                "SELECT count(*) FROM checkpoint_blobs AS b WHERE thread_id = :thread_id "
                "AND NOT EXISTS (SELECT FROM checkpoints AS c WHERE c.thread_id = b.thread_id "
                "AND c.checkpoint_ns = b.checkpoint_ns "
                "AND c.checkpoint -> 'channel_versions' ->> b.channel = b.version)"
            ),
            {"thread_id": str(ran)},
        ).scalar_one()
    assert unused == 0
    ended = graph.invoke(Command(resume="yes"), config_of(ran))
    assert ended["log"][: len(before.values["log"])] == before.values["log"]
    assert ended["log"][-1] == "asked"


def test_a_busy_thread_is_not_reduced(database: Database, ran: UUID, rows_of: RowsOf) -> None:
    """Its run needs the checkpoints."""
    admit(database, ran)
    before = rows_of(ran)
    body = ThreadPrune.model_validate({"thread_ids": [str(ran)], "strategy": "keep_latest"})
    assert service.prune(database, body) == (0, [])
    assert rows_of(ran) == before


def test_pruning_deletes_by_default_and_counts_what_was_there(
    database: Database, ran: UUID, rows_of: RowsOf
) -> None:
    """Unknown ids do not count, nor does one named twice."""
    ids = [str(ran), str(ran), str(uuid4())]
    assert service.prune(database, ThreadPrune.model_validate({"thread_ids": ids})) == (1, [])
    assert set(rows_of(ran).values()) == {0}
    assert service.prune(database, ThreadPrune(thread_ids=[])) == (0, [])


def test_the_sweep_applies_every_ttl_that_is_over(
    database: Database, ran: UUID, rows_of: RowsOf
) -> None:
    """Busy threads wait; kept ones are due again later."""
    gone, busy, later = (
        create(database, ttl={"ttl": minutes})["thread_id"] for minutes in (1, 1, 90)
    )
    service.patch(
        database, ran, ThreadPatch.model_validate({"ttl": {"ttl": 1, "strategy": "keep_latest"}})
    )
    admit(database, busy)
    with database.statement() as connection:
        connection.execute(
            text("UPDATE thread SET expires_at = expires_at - interval '1 hour'"),
        )

    while service.sweep_expired(database):
        pass

    assert set(rows_of(gone).values()) == {0}
    assert rows_of(busy)["thread"] == rows_of(later)["thread"] == 1
    assert rows_of(ran)["checkpoints"] == 2
    kept = service.get(database, ran, with_ttl=True)
    assert kept["ttl"]["expires_at"] > kept["updated_at"]


def test_storage_adds_up(database: Database, ran: UUID, rows_of: RowsOf) -> None:
    """Every row of langgraph's tables is counted once."""
    storage = wire.loads(wire.dumps(service.read_storage(database, ran)))
    rows = rows_of(ran)
    parts = ("checkpoints", "channel_values", "pending_writes")
    assert [storage[part]["count"] for part in parts] == [rows[name] for name in LANGGRAPH_TABLES]
    assert storage["total_bytes"] == sum(storage[part]["bytes"] for part in parts) > 0
    assert storage["channel_values"]["by_channel"]["log"]["versions"] > 1
