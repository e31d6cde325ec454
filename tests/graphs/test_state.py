"""State on a real Postgres, in the wire's shapes (http.md, section 2)."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from greenroom.config import Project
from greenroom.errors import BadRequest
from greenroom.graphs.encoding import encode_json
from greenroom.graphs.registry import load_registry
from greenroom.graphs.state import (
    Graph,
    apply_supersteps,
    read_history,
    read_state,
    update_state,
)

pytestmark = pytest.mark.asyncio

GRAPHS = """
    import operator
    from typing import Annotated
    from langchain_core.messages import AIMessage
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.types import interrupt
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        text: str
        log: Annotated[list, operator.add]

    def upper(state):
        return {"text": state["text"].upper(), "log": [state["text"]]}

    def ask(state):
        return {"text": interrupt({"question": state["text"]})}

    def fail(state):
        raise ValueError("boom")

    def chain(*nodes):
        graph = StateGraph(State)
        for name, node in nodes:
            graph.add_node(name, node)
        for (before, _), (after, _) in zip(nodes, nodes[1:]):
            graph.add_edge(before, after)
        return graph.add_edge(START, nodes[0][0]).add_edge(nodes[-1][0], END).compile()

    two = chain(("upper", upper), ("lower", lambda s: {"text": s["text"].lower()}))
    parallel = (
        StateGraph(State)
        .add_node("left", lambda s: {"log": ["l"]})
        .add_node("right", lambda s: {"log": ["r"]})
        .add_edge(START, "left")
        .add_edge(START, "right")
        .compile()
    )
    failing = chain(("upper", upper), ("fail", fail))
    inner = chain(("draft", upper), ("ask", ask))
    middle = chain(("inner", inner))
    outer = chain(("plan", upper), ("middle", middle), ("end", upper))
    chat = (
        StateGraph(MessagesState)
        .add_node("model", lambda s: {"messages": [AIMessage("hello", id="a")]})
        .add_edge(START, "model")
        .compile()
    )
"""

EMPTY: dict[str, Any] = {
    "values": {},
    "next": [],
    "tasks": [],
    "metadata": None,
    "created_at": None,
    "checkpoint": None,
    "parent_checkpoint": None,
    "interrupts": [],
    "checkpoint_id": None,
    "parent_checkpoint_id": None,
}

OpenGraph = Callable[[str], Any]


@pytest.fixture
def thread_id() -> str:
    """A thread that nobody has used."""
    return str(uuid4())


@pytest_asyncio.fixture
async def open_graph(
    make_project: Callable[..., Project], database_uri: str
) -> AsyncIterator[OpenGraph]:
    """Open one of GRAPHS on Postgres."""
    names = ["two", "parallel", "failing", "outer", "chat"]
    project = make_project({"graphs.py": GRAPHS}, {name: f"./graphs.py:{name}" for name in names})
    registry = load_registry(project)
    async with AsyncPostgresSaver.from_conn_string(database_uri) as saver:

        def open_one(name: str) -> Any:
            return registry.open(
                name, {}, checkpointer=saver, store=None, access="threads.create_run"
            )

        yield open_one


async def run(graph: Graph, thread_id: str, value: Any) -> None:
    await graph.ainvoke(value, {"configurable": {"thread_id": thread_id}, "metadata": {"k": 1}})


async def wire(answer: Any) -> Any:
    return json.loads(encode_json(await answer))


async def test_a_thread_without_checkpoints_has_the_empty_state(
    open_graph: OpenGraph, thread_id: str
) -> None:
    """All ten keys, in this order; no history."""
    async with open_graph("two") as graph:
        state = await wire(read_state(graph, thread_id))
        assert list(state.items()) == list(EMPTY.items())
        assert await wire(read_history(graph, thread_id)) == []


@pytest.mark.parametrize("checkpoint_id", ["00000000-0000-0000-0000-000000000000", "bad"])
async def test_an_unknown_checkpoint_is_the_empty_state_with_its_id(
    open_graph: OpenGraph, thread_id: str, checkpoint_id: str
) -> None:
    """Not an error on the reference, malformed ids included."""
    async with open_graph("two") as graph:
        await run(graph, thread_id, {"text": "a"})
        state = await wire(
            read_state(graph, thread_id, checkpoint={"checkpoint_id": checkpoint_id})
        )

    pointer = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}
    assert state == EMPTY | {"checkpoint": pointer, "checkpoint_id": checkpoint_id}


async def test_state_after_a_run(open_graph: OpenGraph, thread_id: str) -> None:
    """The newest checkpoint with its parent; run metadata at the top level."""
    async with open_graph("two") as graph:
        await run(graph, thread_id, {"text": "Ab"})
        state = await wire(read_state(graph, thread_id))
        history = await wire(read_history(graph, thread_id, limit=10))

    assert list(state) == list(EMPTY)
    assert state["values"] == {"text": "ab", "log": ["Ab"]}
    assert set(state["checkpoint"]) == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    assert state["checkpoint"]["checkpoint_id"] == state["checkpoint_id"]
    assert state["parent_checkpoint"]["checkpoint_id"] == state["parent_checkpoint_id"]
    assert state["metadata"]["k"] == 1 and state["metadata"]["step"] == 2
    assert state["created_at"].endswith("+00:00")
    assert history[0] == state
    assert [each["metadata"]["step"] for each in history] == [2, 1, 0, -1]
    assert history[2]["tasks"][0]["result"] == {"text": "AB", "log": ["Ab"]}
    assert list(history[2]["tasks"][0]) == [
        "id",
        "name",
        "path",
        "error",
        "interrupts",
        "checkpoint",
        "state",
        "result",
    ]
    assert history[2]["tasks"][0]["path"] == ["__pregel_pull", "upper"]


async def test_history_takes_limit_before_and_metadata(
    open_graph: OpenGraph, thread_id: str
) -> None:
    """One state by default; `before` in all three forms."""
    async with open_graph("two") as graph:
        await run(graph, thread_id, {"text": "a"})
        everything = await wire(read_history(graph, thread_id, limit=10))
        middle = everything[1]["checkpoint_id"]
        forms = [middle, {"checkpoint_id": middle}, {"configurable": {"checkpoint_id": middle}}]
        for before in forms:
            found = await wire(read_history(graph, thread_id, limit=10, before=before))
            assert found == everything[2:]
        assert await wire(read_history(graph, thread_id)) == everything[:1]
        filtered = read_history(graph, thread_id, limit=10, metadata={"step": 0})
        assert await wire(filtered) == everything[2:3]


async def test_a_failed_step_keeps_the_repr_of_its_error(
    open_graph: OpenGraph, thread_id: str
) -> None:
    """The task that failed is due again, and says why."""
    async with open_graph("failing") as graph:
        with pytest.raises(ValueError, match="boom"):
            await run(graph, thread_id, {"text": "a"})
        state = await wire(read_state(graph, thread_id))

    assert state["next"] == ["fail"]
    assert state["tasks"][0]["error"] == "ValueError('boom')"


async def test_messages_are_plain_json(open_graph: OpenGraph, thread_id: str) -> None:
    """As clients know them, also after their way through Postgres."""
    async with open_graph("chat") as graph:
        await run(graph, thread_id, {"messages": [{"role": "user", "content": "hi"}]})
        state = await wire(read_state(graph, thread_id))

    human, reply = state["values"]["messages"]
    assert (human["type"], human["content"]) == ("human", "hi")
    assert reply == {
        "content": "hello",
        "additional_kwargs": {},
        "response_metadata": {},
        "type": "ai",
        "name": None,
        "id": "a",
        "tool_calls": [],
        "invalid_tool_calls": [],
        "usage_metadata": None,
    }


async def test_nested_states_are_addressed_or_shown(open_graph: OpenGraph, thread_id: str) -> None:
    """A task of a nested graph has the address of its state, or with `subgraphs` the state."""
    async with open_graph("outer") as graph:
        await run(graph, thread_id, {"text": "a"})
        closed = (await wire(read_state(graph, thread_id)))["tasks"][0]
        opened = (await wire(read_state(graph, thread_id, subgraphs=True)))["tasks"][0]
        by_address = await wire(read_state(graph, thread_id, checkpoint=closed["checkpoint"]))
        deepest = opened["state"]["tasks"][0]["state"]
        deep = await wire(read_state(graph, thread_id, checkpoint=deepest["checkpoint"]))
        old = {"checkpoint_ns": deepest["checkpoint"]["checkpoint_ns"]}
        history = await wire(read_history(graph, thread_id, limit=9, checkpoint=old))

    assert set(closed["checkpoint"]) == {"thread_id", "checkpoint_ns"}
    assert closed["state"] is None and opened["checkpoint"] is None
    namespace = closed["checkpoint"]["checkpoint_ns"]
    assert namespace == f"middle:{closed['id']}"
    assert by_address["next"] == ["inner"] == opened["state"]["next"]
    assert deepest["checkpoint"]["checkpoint_ns"].startswith(f"{namespace}|inner:")
    assert set(deepest["checkpoint"]["checkpoint_map"]) >= {"", namespace}
    assert deep["values"] == deepest["values"] == {"text": "A", "log": ["a", "A"]}
    assert [each["next"] for each in history] == [["ask"], ["draft"], ["__start__"]]
    interrupts = closed["interrupts"]
    assert (
        interrupts
        == deepest["interrupts"]
        == [{"id": interrupts[0]["id"], "value": {"question": "A"}}]
    )


async def test_an_update_answers_with_the_pointer_and_the_threads_row(
    open_graph: OpenGraph, thread_id: str
) -> None:
    """Reducers apply, the step goes on by one, what is due decides the status."""
    async with open_graph("two") as graph:
        await run(graph, thread_id, {"text": "a"})
        before = await wire(read_state(graph, thread_id))
        values = {"text": "B", "log": ["x"], "unknown": 1}
        answer = await wire(update_state(graph, thread_id, values=values, as_node="upper"))
        after = await wire(read_state(graph, thread_id))
        finished = await wire(update_state(graph, thread_id, values={}, as_node="__end__"))

    pointer = after["checkpoint"]
    assert answer["update"] == {
        "checkpoint": pointer,
        "configurable": pointer,
        "checkpoint_id": pointer["checkpoint_id"],
    }
    assert list(answer["update"]["checkpoint"]) == ["thread_id", "checkpoint_ns", "checkpoint_id"]
    assert answer["thread"] == {
        "status": "interrupted",
        "values": {"text": "B", "log": ["a", "x"]},
        "interrupts": {},
    }
    assert after["metadata"]["source"] == "update"
    assert after["metadata"]["step"] == before["metadata"]["step"] + 1
    assert after["next"] == ["lower"]
    assert finished["thread"]["status"] == "idle"


async def test_an_update_without_a_node_takes_the_last_writer(
    open_graph: OpenGraph, thread_id: str
) -> None:
    """`values: null` is allowed and writes an empty checkpoint."""
    async with open_graph("two") as graph:
        await run(graph, thread_id, {"text": "a"})
        answer = await wire(update_state(graph, thread_id, values=None))

    assert answer["thread"] == {
        "status": "idle",
        "values": {"text": "a", "log": ["a"]},
        "interrupts": {},
    }


async def test_an_update_at_an_old_checkpoint_forks(open_graph: OpenGraph, thread_id: str) -> None:
    """The new checkpoint's parent is the old one, and the thread goes on from the fork."""
    async with open_graph("two") as graph:
        await run(graph, thread_id, {"text": "a"})
        old = (await wire(read_history(graph, thread_id, limit=9)))[2]
        for checkpoint in (old["checkpoint"], {"checkpoint_id": old["checkpoint_id"]}):
            await update_state(
                graph,
                thread_id,
                values={"text": "fork"},
                as_node="__start__",
                checkpoint=checkpoint,
            )
            state = await wire(read_state(graph, thread_id))
            assert state["parent_checkpoint_id"] == old["checkpoint_id"]
            assert state["next"] == ["upper"]


async def test_an_update_of_a_nested_state_leaves_the_threads_interrupt(
    open_graph: OpenGraph, thread_id: str
) -> None:
    """The row shows the root, whose pending question is still there, under its task."""
    async with open_graph("outer") as graph:
        await run(graph, thread_id, {"text": "a"})
        task = (await wire(read_state(graph, thread_id, subgraphs=True)))["tasks"][0]
        inner = task["state"]["tasks"][0]["state"]["checkpoint"]
        answer = await wire(
            update_state(graph, thread_id, values={"text": "n"}, as_node="draft", checkpoint=inner)
        )

    assert answer["update"]["checkpoint"]["checkpoint_ns"] == inner["checkpoint_ns"]
    assert answer["thread"]["status"] == "interrupted"
    assert answer["thread"]["interrupts"] == {task["id"]: task["interrupts"]}


@pytest.mark.parametrize(
    ("update", "sentence"),
    [
        ({"values": {"text": "x"}, "as_node": "nope"}, "Node nope does not exist"),
        ({"values": "text", "as_node": "upper"}, "Expected dict, got text"),
        ({"values": {}, "checkpoint": {"checkpoint_ns": "no:1"}}, "Subgraph no not found"),
    ],
)
async def test_an_update_that_the_graph_cannot_take_is_a_bad_request(
    open_graph: OpenGraph, thread_id: str, update: dict[str, Any], sentence: str
) -> None:
    """The sentence is langgraph's own; nothing has been written."""
    async with open_graph("two") as graph:
        with pytest.raises(BadRequest, match=sentence):
            await update_state(graph, thread_id, **update)
        assert await wire(read_state(graph, thread_id)) == EMPTY


async def test_an_update_after_two_nodes_at_once_must_name_its_node(
    open_graph: OpenGraph, thread_id: str
) -> None:
    """Nobody can tell which of them wrote last."""
    async with open_graph("parallel") as graph:
        await run(graph, thread_id, {"text": "a"})
        with pytest.raises(BadRequest, match="Ambiguous update, specify as_node"):
            await update_state(graph, thread_id, values={"text": "x"})


async def test_a_foreign_thread_in_the_pointer_is_ignored(
    open_graph: OpenGraph, thread_id: str
) -> None:
    """Who may see a thread is decided by its id in the path, not by what a body says."""
    async with open_graph("two") as graph:
        await run(graph, thread_id, {"text": "secret"})
        other = str(uuid4())
        aimed: Any = {"configurable": {"thread_id": thread_id}}
        state = await wire(read_state(graph, other, aimed, checkpoint={"thread_id": thread_id}))

    assert state == EMPTY


async def test_supersteps_write_one_checkpoint_each(open_graph: OpenGraph, thread_id: str) -> None:
    """Values or commands, from several nodes; the answer is that of an update."""
    supersteps = [
        {"updates": [{"values": {"text": "a", "log": ["x"]}, "as_node": "__start__"}]},
        {"updates": [{"values": {"log": ["y"]}, "as_node": "upper"}]},
        {"updates": [{"command": {"update": {"log": ["z"]}}, "as_node": "lower"}]},
    ]
    async with open_graph("two") as graph:
        answer = await wire(apply_supersteps(graph, thread_id, supersteps=supersteps))
        history = await wire(read_history(graph, thread_id, limit=9))

    assert answer["thread"]["values"] == {"text": "a", "log": ["x", "y", "z"]}
    assert answer["update"]["checkpoint_id"] == history[0]["checkpoint_id"]
    assert [each["metadata"]["source"] for each in history] == ["update"] * 3


@pytest.mark.parametrize("supersteps", [[], [{"updates": []}], [{}]])
async def test_empty_supersteps_are_a_bad_request(
    open_graph: OpenGraph, thread_id: str, supersteps: Any
) -> None:
    """Said before anything is written."""
    async with open_graph("two") as graph:
        with pytest.raises(BadRequest, match="at least one update"):
            await apply_supersteps(graph, thread_id, supersteps=supersteps)
