"""Histories of which only the new is made show what langgraph would (http.md, section 2)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any
from uuid import uuid4

import orjson
import pytest
import pytest_asyncio
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.types import Command, Interrupt
from psycopg_pool import AsyncConnectionPool
from tests.graphs.conftest import StartHost

from greenroom.config import Config, Project
from greenroom.graphs.encoding import encode_json
from greenroom.graphs.history import SELF_CONTAINED, Page, PageSaver
from greenroom.graphs.persistence import Persistence, open_persistence
from greenroom.graphs.registry import Registry, load_registry
from greenroom.graphs.snapshots import LARGEST_SHARE, OVERHEAD_BYTES, Key, Snapshots
from greenroom.graphs.state import Graph, read_history, update_state

GRAPHS = """
    import operator
    from typing import Annotated
    from langchain_core.messages import AIMessage
    from langgraph.channels.delta import DeltaChannel
    from langgraph.func import entrypoint, task
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.pregel import Pregel
    from langgraph.types import Send, interrupt
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        text: str
        log: Annotated[list, operator.add]

    class Summed(TypedDict, total=False):
        log: Annotated[list, DeltaChannel(lambda old, new: [*old, *[x for w in new for x in w]])]

    failures = {"left": 0}

    def upper(state):
        return {"text": state["text"].upper(), "log": [state["text"]]}

    def ask(state):
        return {"text": interrupt({"question": state["text"]})}

    def flaky(state):
        if failures["left"]:
            failures["left"] -= 1
            raise ValueError("boom")
        return {"log": ["well"]}

    def chain(*nodes, state=State):
        graph = StateGraph(state)
        for name, node in nodes:
            graph.add_node(name, node)
        for (before, _), (after, _) in zip(nodes, nodes[1:]):
            graph.add_edge(before, after)
        return graph.add_edge(START, nodes[0][0]).add_edge(nodes[-1][0], END).compile()

    two = chain(("upper", upper), ("lower", lambda s: {"text": s["text"].lower()}))
    asking = chain(("upper", upper), ("ask", ask), ("lower", upper))
    failing = chain(("upper", upper), ("flaky", flaky))
    inner = chain(("draft", upper), ("ask", ask))
    nested = chain(("plan", upper), ("inner", inner), ("end", upper))
    summed = chain(("one", lambda s: {"log": [1]}), ("two", lambda s: {"log": [2]}), state=Summed)
    fanned = (
        StateGraph(State)
        .add_node("each", lambda s: {"log": [s]})
        .add_conditional_edges(START, lambda s: [Send("each", n) for n in range(3)])
        .compile()
    )
    chat = (
        StateGraph(MessagesState)
        .add_node("model", lambda s: {"messages": [AIMessage("hello \\\\ud800", id="a")]})
        .add_edge(START, "model")
        .compile()
    )

    @task
    def double(number):
        return 2 * number

    @entrypoint()
    def functional(numbers, *, previous=None):
        return entrypoint.final(
            value=interrupt("sure?"), save=sum(double(n).result() for n in numbers)
        )

    class Own(Pregel):
        async def aget_state_history(self, *arguments, **options):
            async for each in super().aget_state_history(*arguments, **options):
                yield each._replace(next=("mine",))

    own = chain(("upper", upper))
    own.__class__ = type("OwnCompiled", (Own, type(own)), {})

    def make():
        return chain(("upper", upper), ("ask", ask))
"""
INPUTS: dict[str, Any] = {
    "two": {"text": "A"},
    "asking": {"text": "A"},
    "failing": {"text": "A"},
    "nested": {"text": "A"},
    "summed": {},
    "fanned": {"text": "A"},
    "chat": {"messages": [("user", "hello")]},
    "functional": [1, 2],
    "own": {"text": "A"},
    "make": {"text": "A"},
}
KEPT = ["two", "asking", "failing", "nested", "fanned", "chat", "functional"]
ROOM = 1024 * 1024

MakeProject = Callable[..., Project]


@pytest.fixture
def thread_id() -> str:
    """A thread that nobody has used."""
    return str(uuid4())


@pytest.fixture
def project(make_project: MakeProject) -> Project:
    return make_project({"graphs.py": GRAPHS}, {name: f"./graphs.py:{name}" for name in INPUTS})


class Reader:
    """Reads histories as the graphs process does, and as langgraph alone would."""

    def __init__(self, registry: Registry, persistence: Persistence) -> None:
        self.registry = registry
        self.persistence = persistence
        self.snapshots = persistence.snapshots

    @asynccontextmanager
    async def open(self, name: str, saver: BaseCheckpointSaver[Any] | None) -> AsyncIterator[Graph]:
        async with self.registry.open(
            name,
            {},
            checkpointer=saver or self.persistence.checkpointer,
            store=None,
            access="threads.read",
        ) as graph:
            yield graph

    async def run(self, name: str, thread_id: str, value: Any, checkpoint_id: str = "") -> None:
        """Run the graph until it ends, asks or fails."""
        configurable = {"thread_id": thread_id}
        if checkpoint_id:
            configurable["checkpoint_id"] = checkpoint_id
        async with self.open(name, None) as graph:
            with suppress(ValueError):
                await graph.ainvoke(value, {"configurable": configurable, "metadata": {"k": 1}})

    async def made(self, name: str, thread_id: str, **search: Any) -> int:
        """How many snapshots a reading had to make; it must show what langgraph shows."""
        namespace = (search.get("checkpoint") or {}).get("checkpoint_ns", "")
        search = {"limit": 100, **search}
        page = Page(self.snapshots, (name, thread_id, namespace))
        saver = PageSaver(self.persistence.pool, self.persistence.serde, page)
        async with self.open(name, saver) as graph:
            states = await read_history(graph, thread_id, **search)
            shown = page.complete(states)
        assert shown == await self.plain(name, thread_id, **search)
        return len(states)

    async def plain(self, name: str, thread_id: str, **search: Any) -> list[bytes]:
        async with self.open(name, None) as graph:
            return [encode_json(state) for state in await read_history(graph, thread_id, **search)]

    async def execute(self, statement: str, **values: Any) -> None:
        async with self.persistence.pool.connection() as connection:
            await connection.execute(statement, values)


@pytest_asyncio.fixture
async def reader(project: Project, database_uri: str) -> AsyncIterator[Reader]:
    config = Config(database_uri=database_uri, redis_uri="", project=project, database_pool_size=1)
    registry = load_registry(project)
    assert not registry.broken
    async with open_persistence(config) as persistence:
        yield Reader(registry, persistence)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", KEPT)
async def test_what_was_shown_is_not_made_again(reader: Reader, thread_id: str, name: str) -> None:
    """Nor is what came before a run made again after it, but for where it went on from."""
    await reader.run(name, thread_id, INPUTS[name])
    total = await reader.made(name, thread_id)
    assert total > 0
    assert await reader.made(name, thread_id) == 0
    assert await reader.made(name, thread_id, limit=1) == 0

    await reader.run(name, thread_id, INPUTS[name])

    added = len(await reader.plain(name, thread_id, limit=100)) - total
    assert added <= await reader.made(name, thread_id) <= added + 1
    assert await reader.made(name, thread_id) == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["asking", "nested", "functional"])
async def test_an_answered_question_is_shown_answered(
    reader: Reader, thread_id: str, name: str
) -> None:
    """The answer is a row beside the checkpoint that asked."""
    await reader.run(name, thread_id, INPUTS[name])
    await reader.made(name, thread_id)

    await reader.run(name, thread_id, Command(resume="yes"))

    assert await reader.made(name, thread_id) > 0
    assert await reader.made(name, thread_id) == 0


@pytest.mark.asyncio
async def test_a_nested_graphs_history_is_known_apart(reader: Reader, thread_id: str) -> None:
    """Its namespace is part of what is remembered, and an answer changes it as well."""
    await reader.run("nested", thread_id, INPUTS["nested"])
    async with reader.open("nested", None) as graph:
        (task,) = (await graph.aget_state({"configurable": {"thread_id": thread_id}})).tasks
    inner = {"checkpoint_ns": f"inner:{task.id}"}

    assert await reader.made("nested", thread_id) > 0
    assert await reader.made("nested", thread_id, checkpoint=inner) > 0
    assert await reader.made("nested", thread_id, checkpoint=inner) == 0
    await reader.run("nested", thread_id, Command(resume="yes"))
    assert await reader.made("nested", thread_id, checkpoint=inner) > 0
    assert await reader.made("nested", thread_id, checkpoint={"checkpoint_ns": "inner"}) == 0


@pytest.mark.asyncio
async def test_a_failed_step_that_is_tried_again_is_shown_as_it_is(
    reader: Reader, thread_id: str
) -> None:
    """The error of a task is a row that the next attempt may replace."""
    failures = reader.registry.loaded["failing"].graph.nodes["flaky"].bound.func.__globals__  # type: ignore[union-attr]
    failures["failures"]["left"] = 2
    await reader.run("failing", thread_id, INPUTS["failing"])
    await reader.made("failing", thread_id)
    assert b"boom" in (await reader.plain("failing", thread_id))[0]

    await reader.run("failing", thread_id, None)
    await reader.made("failing", thread_id)
    await reader.run("failing", thread_id, None)

    assert await reader.made("failing", thread_id) == 2


@pytest.mark.asyncio
async def test_a_replaced_write_is_shown(reader: Reader, thread_id: str) -> None:
    """Also one of the same kind, task and length: rows of interrupts are written over."""
    await reader.run("asking", thread_id, INPUTS["asking"])
    async with reader.open("asking", None) as graph:
        state = await graph.aget_state({"configurable": {"thread_id": thread_id}})
    for value in ("one", "two"):
        writes = [("__interrupt__", (Interrupt(value, id="same"),))]
        saver = reader.persistence.checkpointer
        await saver.aput_writes(state.config, writes, state.tasks[0].id)
        assert await reader.made("asking", thread_id) >= 1
        assert value.encode() in (await reader.plain("asking", thread_id))[0]
    await reader.execute(
        "DELETE FROM checkpoint_writes WHERE thread_id = %(thread_id)s"
        " AND channel = '__interrupt__'",
        thread_id=thread_id,
    )
    assert await reader.made("asking", thread_id) == 1


@pytest.mark.asyncio
async def test_updates_and_forks_show_what_is_new(reader: Reader, thread_id: str) -> None:
    """An update, a fork of an old checkpoint, and a run that goes on from there."""
    await reader.run("two", thread_id, INPUTS["two"])
    total = await reader.made("two", thread_id)
    async with reader.open("two", None) as graph:
        states = await read_history(graph, thread_id, limit=100)
        await update_state(graph, thread_id, values={"text": "B"}, as_node="upper")
        assert 1 <= await reader.made("two", thread_id) <= 2
        fork = {"checkpoint_id": states[-2]["checkpoint_id"]}
        await update_state(graph, thread_id, values={"text": "C"}, checkpoint=fork)
    assert 1 <= await reader.made("two", thread_id) <= 2

    await reader.run("two", thread_id, None, checkpoint_id=states[-2]["checkpoint_id"])

    assert 1 <= await reader.made("two", thread_id) <= total
    assert await reader.made("two", thread_id) == 0


@pytest.mark.asyncio
async def test_a_thread_made_again_under_its_id_shows_nothing_of_the_old_one(
    reader: Reader, thread_id: str
) -> None:
    """Not even if the checkpoint has the same id."""
    checkpoint = {**empty_checkpoint(), "v": SELF_CONTAINED, "channel_versions": {"text": "1"}}
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    for value in ("old", "new"):
        saver = reader.persistence.checkpointer
        written: Any = {**checkpoint, "channel_values": {"text": value}}
        await saver.aput(config, written, {"step": 0}, {"text": "1"})
        assert await reader.made("two", thread_id) == 1
        assert value.encode() in (await reader.plain("two", thread_id))[0]
        await saver.adelete_thread(thread_id)
        assert await reader.made("two", thread_id) == 0
        assert await reader.plain("two", thread_id) == []


@pytest.mark.asyncio
async def test_a_pruned_parent_is_not_shown_any_more(reader: Reader, thread_id: str) -> None:
    """The row of a checkpoint whose parent goes is changed."""
    await reader.run("two", thread_id, INPUTS["two"])
    await reader.made("two", thread_id)

    await reader.persistence.checkpointer.aprune([thread_id])

    assert await reader.made("two", thread_id) == 1
    assert b'"parent_checkpoint":null' in (await reader.plain("two", thread_id))[0]


@pytest.mark.asyncio
async def test_filters_choose_among_known_snapshots(reader: Reader, thread_id: str) -> None:
    """Limit, an older one, metadata and one checkpoint choose alike, known or not."""
    await reader.run("two", thread_id, INPUTS["two"])
    async with reader.open("two", None) as graph:
        ids = [each["checkpoint_id"] for each in await read_history(graph, thread_id, limit=100)]
    searches: list[dict[str, Any]] = [
        {"limit": 2},
        {"before": ids[1]},
        {"limit": 1, "before": {"checkpoint_id": ids[0]}},
        {"metadata": {"source": "loop"}},
        {"metadata": {"source": "nobody"}},
        {"checkpoint": {"checkpoint_id": ids[2]}},
        {"checkpoint": {"checkpoint_ns": "elsewhere"}},
    ]
    for search in searches:
        await reader.made("two", thread_id, **search)
    await reader.made("two", thread_id)
    for search in searches:
        assert await reader.made("two", thread_id, **search) == 0


@pytest.mark.asyncio
async def test_a_snapshot_that_is_made_of_older_checkpoints_is_not_kept(
    reader: Reader, thread_id: str
) -> None:
    """A DeltaChannel reads the writes of its ancestors, and old checkpoints those of a parent."""
    await reader.run("summed", thread_id, INPUTS["summed"])
    total = await reader.made("summed", thread_id)
    assert await reader.made("summed", thread_id) == total > 1

    await reader.run("two", other := str(uuid4()), INPUTS["two"])
    await reader.execute(
        "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{v}', '3')"
        " WHERE thread_id = %(thread_id)s",
        thread_id=other,
    )
    total = await reader.made("two", other)
    assert await reader.made("two", other) == total > 1


@pytest.mark.asyncio
async def test_a_new_connection_forgets_what_another_server_showed(
    reader: Reader, thread_id: str
) -> None:
    """After a failover transactions may be numbered as before, and rows lie where others lay."""
    await reader.run("two", thread_id, INPUTS["two"])
    total = await reader.made("two", thread_id)
    pool: AsyncConnectionPool[Any] = reader.persistence.pool
    async with pool.connection() as connection:
        await connection.execute("SELECT 1")
        await connection.close()

    assert await reader.made("two", thread_id) == total


def test_only_graphs_that_are_always_the_same_have_a_fixed_history(project: Project) -> None:
    """A factory may make another graph, and a class of the owner's may show it in its own way."""
    registry = load_registry(project)
    fixed = {name for name in INPUTS if registry.has_fixed_history(name)}
    assert fixed == {*KEPT, "summed"}
    assert not registry.has_fixed_history("unknown")


@pytest.mark.asyncio
async def test_snapshots_take_no_more_than_their_room() -> None:
    """The oldest make room, whatever the sizes; one that takes too much is not kept at all."""
    snapshots, chance = Snapshots(ROOM), Random(7)
    bodies: dict[Key, bytes] = {}
    for number in range(2000):
        key: Key = (("g", "t", ""), "", str(chance.randrange(300)))
        bodies[key] = str(number).encode() * chance.randrange(1, 20_000)
        snapshots.keep(key, "print", bodies[key])
        assert snapshots.find(key, "print") == bodies[key]
        assert snapshots.find(key, "other") is None
        kept = [each for each in bodies if snapshots.find(each, "print") is not None]
        assert all(snapshots.find(each, "print") == bodies[each] for each in kept)
        assert len(kept) == len(snapshots)
        assert sum(len(bodies[each]) + OVERHEAD_BYTES for each in kept) <= ROOM
    assert len(kept) > 10

    snapshots.keep(kept[0], "print", b"x" * (ROOM // LARGEST_SHARE))
    assert snapshots.find(kept[0], "print") is None
    await snapshots.forget()
    assert len(snapshots) == 0
    snapshots.keep(kept[0], "print", b"anew")
    assert snapshots.find(kept[0], "print") == b"anew"


@pytest.mark.asyncio
async def test_a_process_that_remembers_answers_byte_for_byte_as_one_that_does_not(
    reader: Reader, start_host: StartHost, project: Project, database_uri: str
) -> None:
    """Histories, and states at a checkpoint, of every graph, asked again and again."""
    remembers = start_host(project, database_uri, history_cache_bytes=ROOM)
    start_host.socket += "2"
    forgets = start_host(project, database_uri, history_cache_bytes=0)
    for name, value in INPUTS.items():
        thread_id = str(uuid4())
        for given in (value, Command(resume="yes"), value):
            await reader.run(name, thread_id, given)
            states = orjson.loads(forgets.read_history(name, thread_id, limit=100))
            assert states
            for state in (*states, {"checkpoint": None}, {"checkpoint": states[0]["checkpoint"]}):
                at = state["checkpoint"]
                for subgraphs in (False, True):
                    one, other = (
                        each.read_state(name, thread_id, checkpoint=at, subgraphs=subgraphs)
                        for each in (remembers, forgets)
                    )
                    assert one == other
            for limit in (2, 100):
                one, other = (
                    each.read_history(name, thread_id, limit=limit) for each in (remembers, forgets)
                )
                assert one == other
        nobody = {"checkpoint_id": str(uuid4())}
        assert remembers.read_state(name, thread_id, checkpoint=nobody) == forgets.read_state(
            name, thread_id, checkpoint=nobody
        )
