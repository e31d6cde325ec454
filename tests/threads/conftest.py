"""Threads with a history that langgraph itself has written."""

import operator
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypedDict
from uuid import UUID

import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from sqlalchemy import text

from greenroom.database.engine import Database
from greenroom.threads import service
from greenroom.threads.schemas import ThreadCreate

Graph = CompiledStateGraph[Any, Any, Any, Any]


class State(TypedDict, total=False):
    """A list that grows, and an answer."""

    log: Annotated[list[str], operator.add]
    answer: str


def ask(_state: State) -> State:
    return {"answer": interrupt({"question": "go on?"}), "log": ["asked"]}


def note(_state: State) -> State:
    return {"log": ["noted"]}


@pytest.fixture(scope="session")
def graph(database_uri: str, database: Database) -> Iterator[Graph]:
    """A node, and then a nested graph that asks."""
    inner = StateGraph(State)
    inner.add_node("ask", ask)
    inner.add_edge(START, "ask")
    outer = StateGraph(State)
    outer.add_node("note", note)
    outer.add_node("nested", inner.compile())
    outer.add_edge(START, "note")
    outer.add_edge("note", "nested")
    outer.add_edge("nested", END)
    with PostgresSaver.from_conn_string(database_uri) as saver:
        yield outer.compile(checkpointer=saver)


def config_of(thread_id: UUID) -> Any:
    """Where langgraph finds a thread."""
    return {"configurable": {"thread_id": str(thread_id)}}


@pytest.fixture
def ran(database: Database, graph: Graph) -> UUID:
    """A thread on which two rounds ended and a third waits for an answer."""
    made, _ = service.create(database, ThreadCreate(metadata={"origin": "yes"}))
    thread_id: UUID = made["thread_id"]
    config = config_of(thread_id)
    for _ in range(2):
        graph.invoke({"log": ["in"]}, config)
        graph.invoke(Command(resume="yes"), config)
    graph.invoke({"log": ["in"]}, config)
    with database.statement() as connection:
        # As our workers write it; langgraph alone leaves the id out of the metadata.
        connection.execute(
            text(
                "UPDATE checkpoints SET metadata = metadata || "
                "jsonb_build_object('thread_id', thread_id) WHERE thread_id = :thread_id"
            ),
            {"thread_id": str(thread_id)},
        )
    return thread_id


@pytest.fixture
def rows_of(database: Database) -> Callable[[UUID], dict[str, int]]:
    """Count what every table holds of a thread."""

    def count(thread_id: UUID) -> dict[str, int]:
        with database.statement() as connection:
            tables = connection.execute(
                text(
                    "SELECT table_name FROM information_schema.columns "
                    "WHERE column_name = 'thread_id' AND table_schema = 'public'"
                )
            ).scalars()
            return {
                table: connection.execute(
                    text(f"SELECT count(*) FROM {table} WHERE thread_id::text = :thread_id"),
                    {"thread_id": str(thread_id)},
                ).scalar_one()
                for table in tables
            }

    return count
