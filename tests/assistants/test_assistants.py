"""Assistants on a real database."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from greenroom.assistants import queries, service
from greenroom.assistants.schemas import (
    AssistantCount,
    AssistantCreate,
    AssistantPatch,
    AssistantSearch,
    VersionsSearch,
)
from greenroom.config import GraphEntry, Project
from greenroom.database.engine import Database
from greenroom.errors import Conflict, GraphNotFound, InvalidRequest, NotFound
from greenroom.identifiers import system_assistant_id
from greenroom.threads import queries as thread_queries
from greenroom.threads import service as thread_service
from greenroom.threads.schemas import ThreadCreate

GRAPHS = ("one", "two")


def create(database: Database, **fields: Any) -> dict[str, Any]:
    return service.create(database, GRAPHS, AssistantCreate(**{"graph_id": "one", **fields}))


def patch(database: Database, assistant_id: UUID, **fields: Any) -> dict[str, Any]:
    return service.patch(database, GRAPHS, assistant_id, AssistantPatch(**fields))


def versions(database: Database, assistant_id: UUID) -> list[int]:
    found = service.list_versions(database, assistant_id, VersionsSearch())
    return [each["version"] for each in found]


def test_patches_at_once_get_different_versions(database: Database) -> None:
    """None is lost: every patch's metadata is there at the end."""
    key = create(database)["assistant_id"]

    def change(number: int) -> int:
        version: int = patch(database, key, metadata={str(number): number})["version"]
        return version

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(change, range(12)))

    assert sorted(taken) == list(range(2, 14))
    assert service.get(database, key)["metadata"] == {str(n): n for n in range(12)}


def test_going_back_restores_every_field_and_the_next_version_is_a_new_number(
    database: Database,
) -> None:
    """The reference forgets graph and context; we do not."""
    made = create(database, name="first", context={"x": 1}, description="d", metadata={"a": 1})
    key = made["assistant_id"]
    patch(database, key, name="second", graph_id="two", context={"x": 2}, metadata={"b": 2})

    restored = service.restore_version(database, key, 1)

    assert restored == {**made, "updated_at": restored["updated_at"]}
    assert restored["updated_at"] > made["updated_at"]
    assert patch(database, key)["version"] == 3
    assert versions(database, key) == [3, 2, 1]


@pytest.mark.parametrize("version", [None, 0, -1, 99, 2**31, 10**30])
def test_a_version_that_never_was_is_not_found(database: Database, version: int | None) -> None:
    """Whatever the number."""
    key = create(database)["assistant_id"]
    with pytest.raises(NotFound, match=f"Version {version} not found"):
        service.restore_version(database, key, version)


def test_a_taken_id_conflicts_unless_the_stored_one_will_do(database: Database) -> None:
    """The stored one comes back as it is."""
    made = create(database, name="first")
    key = made["assistant_id"]
    with pytest.raises(Conflict):
        create(database, assistant_id=key)
    assert create(database, assistant_id=key, name="x", if_exists="do_nothing") == made
    assert versions(database, key) == [1]


def test_an_unknown_graph_is_named(database: Database) -> None:
    """In create, patch and search alike."""
    key = create(database)["assistant_id"]
    with pytest.raises(GraphNotFound, match="nope"):
        create(database, graph_id="nope")
    with pytest.raises(GraphNotFound, match="nope"):
        patch(database, key, graph_id="nope")
    with pytest.raises(GraphNotFound, match="nope"):
        service.search(database, GRAPHS, AssistantSearch(graph_id="nope"))


@pytest.mark.parametrize("part", ["100%", "a_b", "back\\slash", "%", "_", "ÄÖ"])
def test_the_name_filter_means_what_it_says(database: Database, part: str) -> None:
    """Wildcards of LIKE are letters like any other; case does not matter."""
    mark = str(uuid4())
    named = create(database, name=f"x{part.lower()}y", metadata={"mark": mark})
    create(database, name="x100 aXb backslash y", metadata={"mark": mark})
    search = AssistantSearch(name=part, metadata={"mark": mark})
    found, _ = service.search(database, GRAPHS, search)
    assert [each["assistant_id"] for each in found] == [named["assistant_id"]]
    assert service.count(database, AssistantCount(name=part, metadata={"mark": mark})) == 1


def test_a_page_tells_the_total_and_the_next_offset(database: Database) -> None:
    """Also behind the last one."""
    mark = str(uuid4())
    for _ in range(5):
        create(database, metadata={"mark": mark})

    def page(limit: int, offset: int) -> tuple[int, int, int | None]:
        search = AssistantSearch(metadata={"mark": mark}, limit=limit, offset=offset)
        found, told = service.search(database, GRAPHS, search)
        return len(found), told.total, told.next_offset

    assert page(2, 0) == (2, 5, 2)
    assert page(2, 4) == (1, 5, None)
    assert page(5, 0) == (5, 5, None)
    assert page(2, 40) == (0, 5, None)


def test_system_assistants_are_made_once_and_follow_the_files_description(
    database: Database,
) -> None:
    """Until somebody makes a second version."""
    graph_id = f"graph {uuid4()}"
    key = system_assistant_id(graph_id)

    def ensure(description: str | None) -> dict[str, Any]:
        graphs = {graph_id: GraphEntry(graph_id, "./x.py:x", description)}
        service.ensure_system_assistants(database, Project(Path(), graphs))
        return service.get(database, key)

    made = ensure("first")
    assert made["name"] == made["graph_id"] == graph_id
    assert made["metadata"] == {"created_by": "system"}
    assert ensure("first") == made
    assert ensure("second")["description"] == "second"
    assert versions(database, key) == [1]
    patch(database, key, description="mine")
    assert ensure("third")["description"] == "mine"


def test_system_assistants_can_be_ensured_by_many_at_once(database: Database) -> None:
    """Every web process does so at its start."""
    graphs = {name: GraphEntry(name, "./x.py:x") for name in (str(uuid4()) for _ in range(5))}
    project = Project(Path(), graphs)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: service.ensure_system_assistants(database, project), range(6)))
    for graph_id in graphs:
        assert versions(database, system_assistant_id(graph_id)) == [1]


def test_a_run_finds_its_assistant_by_either_id(database: Database) -> None:
    """A graph id means that graph's system assistant."""
    graph_id = str(uuid4())[:8]
    graphs = {graph_id: GraphEntry(graph_id, "./x.py:x")}
    service.ensure_system_assistants(database, Project(Path(), graphs))
    own = create(database, context={"x": 1}, metadata={"a": 1})
    with database.statement() as connection:
        by_graph = queries.find_for_run(connection, graph_id)
        by_text = queries.find_for_run(connection, str(own["assistant_id"]))
        assert by_graph is not None
        assert by_graph.assistant_id == system_assistant_id(graph_id)
        assert by_text is not None
        assert by_text == queries.ForRun(
            own["assistant_id"],
            "one",
            {"configurable": {"x": 1}},
            {"x": 1},
            {"a": 1},
            own["updated_at"],
        )
        assert queries.find_for_run(connection, "nope") is None
        with pytest.raises(InvalidRequest):
            service.resolve(connection, graphs, "nope")
        with pytest.raises(NotFound):
            service.resolve(connection, graphs, str(uuid4()))


def test_an_assistant_can_take_its_threads_along(database: Database) -> None:
    """Only those on which it ran last."""
    key = create(database)["assistant_id"]

    def make_thread(assistant_id: UUID) -> UUID:
        metadata = {"assistant_id": str(assistant_id), "graph_id": "one"}
        made, _ = thread_service.create(database, ThreadCreate(metadata=metadata))
        thread_id: UUID = made["thread_id"]
        return thread_id

    mine, other = make_thread(key), make_thread(uuid4())
    assert service.delete(database, key, with_threads=True) == []
    with database.statement() as connection:
        assert thread_queries.find_thread(connection, mine) is None
        assert thread_queries.find_thread(connection, other) is not None
    with pytest.raises(NotFound):
        service.delete(database, key, with_threads=True)


@pytest.mark.parametrize(
    ("text", "depth"), [("true", True), ("TRUE", True), ("false", False), ("1", 1), ("12", 12)]
)
def test_xray_is_a_flag_or_a_depth(text: str, depth: object) -> None:
    """As the SDKs send it."""
    assert service.read_xray(text) is depth


@pytest.mark.parametrize("text", ["", "0", "-1", "zz", "1.5", "٣", "9" * 5000])
def test_xray_is_nothing_else(text: str) -> None:
    """No depth below one, none beyond reason."""
    with pytest.raises(InvalidRequest, match="xray"):
        service.read_xray(text)
