"""Loading graphs: every kind works, every failure stays alone."""

import asyncio
import inspect
import pickle
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from greenroom.config import GraphEntry, Project
from greenroom.errors import GraphFault, GraphNotFound
from greenroom.graphs.factories import GraphFactory
from greenroom.graphs.registry import Registry, StaticGraph, load_attribute, load_registry
from greenroom.graphs.users import with_user

MakeProject = Callable[..., Project]


pytestmark = pytest.mark.asyncio

KINDS = """
    import contextlib
    from dataclasses import dataclass
    from langchain_core.runnables import RunnableConfig
    from langgraph.func import entrypoint
    from langgraph.graph import END, START, StateGraph
    from langgraph_sdk.runtime import ServerRuntime
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        value: int

    @dataclass
    class Context:
        tone: str = "plain"

    seen = []
    uncompiled = StateGraph(State).add_node("add", lambda s: {"value": s["value"] + 1})
    uncompiled.add_edge(START, "add").add_edge("add", END)
    compiled = uncompiled.compile(name="other")

    @entrypoint()
    def function(state: State) -> State:
        return {"value": state["value"] + 1}

    def plain():
        return compiled

    def gives_uncompiled():
        return uncompiled

    async def asynchronous():
        return compiled

    def gives_awaitable():
        return asynchronous()

    @contextlib.contextmanager
    def manager():
        seen.append("entered")
        try:
            yield compiled
        finally:
            seen.append("left")

    @contextlib.asynccontextmanager
    async def async_manager():
        seen.append("entered")
        try:
            yield uncompiled
        finally:
            seen.append("left")

    def with_config(config: RunnableConfig):
        seen.append(config)
        return compiled

    def with_dict(config: dict):
        seen.append(config)
        return compiled

    def with_one_bare(anything):
        seen.append(anything)
        return compiled

    def with_runtime(runtime: ServerRuntime[Context]):
        seen.append(runtime)
        return compiled

    async def with_both(runtime: ServerRuntime, config: RunnableConfig, extra: int = 3):
        seen.append((runtime, config))
        return compiled

    def two_bare(a, b):
        return compiled

    def wrong_type(a: int):
        return compiled

    def raises():
        raise KeyError("from the factory")

    def exits():
        raise StopIteration

    def gives_nothing():
        return None

    number = 3
"""
GOOD = [
    "compiled",
    "uncompiled",
    "function",
    "plain",
    "gives_uncompiled",
    "asynchronous",
    "gives_awaitable",
    "manager",
    "async_manager",
    "with_config",
    "with_dict",
    "with_one_bare",
    "with_runtime",
    "with_both",
]


def load(make_project: MakeProject, *names: str, **files: str) -> Registry:
    graphs = {name: f"./kinds.py:{name}" for name in names}
    graphs |= {name: f"./{name}.py:graph" for name in files}
    return load_registry(
        make_project({"kinds.py": KINDS} | {f"{n}.py": text for n, text in files.items()}, graphs)
    )


def seen_by(registry: Registry, name: str) -> Any:
    return globals_of(registry, name)["seen"]


def globals_of(registry: Registry, name: str) -> dict[str, Any]:
    """The variables of the module in which a factory was written."""
    factory = registry.loaded[name]
    assert isinstance(factory, GraphFactory)
    variables: dict[str, Any] = inspect.unwrap(factory.function).__globals__
    return variables


def read_only() -> dict[str, Any]:
    return {"checkpointer": None, "store": None, "access": "threads.read"}


@pytest.mark.parametrize("name", GOOD)
async def test_every_kind_of_graph_opens_with_our_name_and_persistence(
    make_project: MakeProject, name: str
) -> None:
    """Whatever the owner wrote, a run gets a graph called like its id, on our saver and store."""
    registry = load(make_project, name)
    saver, store = InMemorySaver(), InMemoryStore()

    async with registry.open(
        name, {}, checkpointer=saver, store=store, access="threads.create_run", context={"tone": ""}
    ) as graph:
        result = await graph.ainvoke({"value": 1}, {"configurable": {"thread_id": "t"}})

    assert registry.broken == {}
    assert result == {"value": 2}
    assert (graph.name, graph.checkpointer, graph.store) == (name, saver, store)
    assert saver.get({"configurable": {"thread_id": "t"}}) is not None


async def test_one_graph_opens_for_two_uses_at_once(make_project: MakeProject) -> None:
    """Openings do not see one another's persistence, and the user's object stays untouched."""
    registry = load(make_project, "compiled")
    saver = InMemorySaver()

    async with (
        registry.open("compiled", {}, **read_only() | {"checkpointer": saver}) as first,
        registry.open("compiled", {}, **read_only()) as second,
    ):
        assert (first.checkpointer, second.checkpointer) == (saver, None)

    loaded = registry.loaded["compiled"]
    assert isinstance(loaded, StaticGraph) and loaded.graph.name == "other"


@pytest.mark.parametrize("name", ["manager", "async_manager"])
async def test_a_context_manager_is_left_after_use_also_after_a_failure(
    make_project: MakeProject, name: str
) -> None:
    """What a factory opened is closed, and the failure of the use comes through."""
    registry = load(make_project, name)

    with pytest.raises(ZeroDivisionError):
        async with registry.open(name, {}, **read_only()):
            assert seen_by(registry, name) == ["entered"]
            raise ZeroDivisionError

    assert seen_by(registry, name) == ["entered", "left"]


@pytest.mark.parametrize("name", ["with_config", "with_dict", "with_one_bare"])
@pytest.mark.parametrize("access", ["threads.create_run", "threads.read"])
async def test_a_factory_sees_the_config_and_whether_it_is_for_execution(
    make_project: MakeProject, name: str, access: Any
) -> None:
    """The config arrives with the internal key that tells a run from a look; ours is kept."""
    registry = load(make_project, name)
    config: Any = {"configurable": {"operation": "x"}, "tags": ["t"]}

    async with registry.open(name, config, checkpointer=None, store=None, access=access):
        (given,) = seen_by(registry, name)

    is_run = access == "threads.create_run"
    assert given["configurable"] == {"operation": "x", "__is_for_execution__": is_run}
    assert given["tags"] == ["t"]
    assert config == {"configurable": {"operation": "x"}, "tags": ["t"]}


async def test_a_factory_sees_the_typed_runtime_of_a_run(make_project: MakeProject) -> None:
    """During a run `execution_runtime` holds the context as the annotated type."""
    registry = load(make_project, "with_runtime")
    store = InMemoryStore()

    async with registry.open(
        "with_runtime",
        with_user({"configurable": {"langgraph_auth_user": {"identity": "u"}}}),
        checkpointer=None,
        store=store,
        access="threads.create_run",
        context={"tone": "dry"},
    ):
        (runtime,) = seen_by(registry, "with_runtime")

    assert runtime.execution_runtime.context.tone == "dry"
    assert runtime.store is store
    assert runtime.ensure_user() == {"identity": "u"}


async def test_a_factory_sees_no_execution_runtime_outside_a_run(
    make_project: MakeProject,
) -> None:
    """Both arguments come in any order; without a run there is no context and no user."""
    registry = load(make_project, "with_both")

    async with registry.open("with_both", {}, **read_only()):
        ((runtime, config),) = seen_by(registry, "with_both")

    assert runtime.access_context == "threads.read"
    assert runtime.execution_runtime is None
    assert config["configurable"] == {"__is_for_execution__": False}
    with pytest.raises(PermissionError):
        runtime.ensure_user()


async def test_text_annotations_count_too(make_project: MakeProject) -> None:
    """`from __future__ import annotations`, also when a name exists only for the type checker."""
    registry = load(
        make_project,
        late="""
            from __future__ import annotations
            from typing import TYPE_CHECKING
            from langchain_core.runnables import RunnableConfig
            from langgraph.graph import StateGraph
            if TYPE_CHECKING:
                from langgraph_sdk.runtime import ServerRuntime
                from nowhere import Graph

            def graph(runtime: ServerRuntime[int], config: RunnableConfig) -> Graph:
                assert runtime.access_context and config["configurable"]
                return StateGraph(dict).add_node("n", lambda s: s).set_entry_point("n")
        """,
    )

    async with registry.open("late", {}, **read_only()) as graph:
        assert "n" in graph.nodes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("two_bare", "can only accept arguments of type ServerRuntime and/or RunnableConfig"),
        ("wrong_type", "can only accept arguments of type ServerRuntime and/or RunnableConfig"),
        ("number", "Variable 'number' in module './kinds.py' is not a Graph or Graph factory"),
        ("State", "is not a Graph or Graph factory function"),
        ("compild", "Could not find graph 'compild' in './kinds.py'. Did you mean 'compiled'"),
    ],
)
async def test_an_unusable_variable_breaks_its_graph_alone(
    make_project: MakeProject, name: str, expected: str
) -> None:
    """The sentence names the graph and the reason; the others load."""
    registry = load(make_project, "compiled", name)

    assert list(registry.loaded) == ["compiled"]
    assert registry.graph_ids == sorted(["compiled", name])
    assert expected in registry.broken[name].message
    with pytest.raises(GraphFault, match=f"Graph '{name}' could not be loaded: "):
        async with registry.open(name, {}, **read_only()):
            pass


@pytest.mark.parametrize(
    ("text", "last_line"),
    [
        ("import not_installed_anywhere", "ModuleNotFoundError: No module named 'not_inst"),
        ("raise RuntimeError('no key')", "RuntimeError: no key"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def graph(:", "SyntaxError: "),
    ],
)
async def test_a_module_that_fails_breaks_its_graph_alone(
    make_project: MakeProject, text: str, last_line: str
) -> None:
    """The reason is the traceback's last line; the whole traceback is kept for the log."""
    registry = load(make_project, "compiled", bad=text)

    assert list(registry.loaded) == ["compiled"]
    assert last_line in registry.broken["bad"].message
    assert "bad.py" in registry.broken["bad"].traceback


async def test_missing_and_foreign_files_break_their_graphs_alone(
    make_project: MakeProject,
) -> None:
    """A missing file, a missing module, JavaScript: one sentence each."""
    registry = load_registry(
        make_project(
            {"kinds.py": KINDS, "agent.ts": ""},
            {
                "good": "./kinds.py:compiled",
                "gone": "./gone.py:graph",
                "js": "./agent.ts:graph",
                "module": "no_such_package.graph:graph",
            },
        )
    )

    assert list(registry.loaded) == ["good"]
    assert "there is no file './gone.py'" in registry.broken["gone"].message
    assert "only Python graphs are supported" in registry.broken["js"].message
    assert "No module named 'no_such_package'" in registry.broken["module"].message


async def test_an_unknown_graph_is_not_found(make_project: MakeProject) -> None:
    """The sentence lists the graphs that exist."""
    registry = load(make_project, "compiled")

    with pytest.raises(GraphNotFound, match="Expected one of: \\['compiled'\\]"):
        async with registry.open("nope", {}, **read_only()):
            pass


@pytest.mark.parametrize(("name", "error"), [("raises", KeyError), ("exits", RuntimeError)])
async def test_a_factorys_own_exception_comes_through(
    make_project: MakeProject, name: str, error: type[Exception]
) -> None:
    """The caller decides what it means; it is the exception that the user's code raised."""
    registry = load(make_project, name)

    with pytest.raises(error):
        async with registry.open(name, {}, **read_only()):
            pass


async def test_a_factory_that_returns_no_graph_is_a_fault(make_project: MakeProject) -> None:
    """Seen at the first use, for a factory is not called at load."""
    registry = load(make_project, "gives_nothing")

    with pytest.raises(GraphFault, match="returned NoneType, which is not a graph"):
        async with registry.open("gives_nothing", {}, **read_only()):
            pass


async def test_a_blocking_factory_does_not_block_the_loop(make_project: MakeProject) -> None:
    """The factory waits here for what only the loop can do."""
    registry = load(
        make_project,
        blocking="""
            import threading
            from langgraph.graph import StateGraph
            gate = threading.Event()

            def graph():
                assert gate.wait(20)
                return StateGraph(dict).add_node("n", lambda s: s).set_entry_point("n")
        """,
    )
    gate = globals_of(registry, "blocking")["gate"]
    asyncio.get_running_loop().call_soon(gate.set)

    async with registry.open("blocking", {}, **read_only()) as graph:
        assert "n" in graph.nodes


async def test_graphs_open_from_a_loop_per_thread(make_project: MakeProject) -> None:
    """Nothing in a registry belongs to a loop: a worker has one per run."""
    registry = load(make_project, "compiled", "plain", "async_manager")
    results = []

    async def use(name: str) -> None:
        async with registry.open(name, {}, **read_only()) as graph:
            results.append(await graph.ainvoke({"value": 1}))

    threads = [
        threading.Thread(target=asyncio.run, args=(use(name),))
        for name in registry.loaded
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert results == [{"value": 2}] * 9


async def test_one_file_is_imported_once_under_a_name_that_lasts(
    make_project: MakeProject,
) -> None:
    """Checkpoints name classes by module: every process must find them under the same name."""
    first = load(make_project, "compiled", "plain", "with_runtime")
    module = globals_of(first, "plain")
    again = load(make_project, "plain")

    assert globals_of(first, "with_runtime") is module
    assert globals_of(again, "plain")["__name__"] == module["__name__"]
    context = globals_of(again, "plain")["Context"]("dry")
    assert pickle.loads(pickle.dumps(context)) == context


async def test_packages_of_the_project_are_importable(make_project: MakeProject) -> None:
    """The directory of langgraph.json is on the path, for dotted graphs and for their imports."""
    registry = load_registry(
        make_project(
            {
                "some_agent_package/__init__.py": "",
                "some_agent_package/graphs.py": KINDS,
                "top.py": "from some_agent_package.graphs import compiled as graph",
            },
            {"dotted": "some_agent_package.graphs:plain", "file": "./top.py:graph"},
        )
    )

    assert registry.broken == {}


async def test_opening_a_static_graph_is_cheap(make_project: MakeProject) -> None:
    """A run pays well under a millisecond for its own view of the graph."""
    registry = load(make_project, "compiled")
    started = time.perf_counter()
    for _ in range(100):
        async with registry.open("compiled", {}, **read_only()):
            pass

    assert (time.perf_counter() - started) / 100 < 0.001


async def test_the_same_directory_is_added_to_the_path_once(make_project: MakeProject) -> None:
    """Loading twice does not make the path grow."""
    load(make_project, "compiled")
    length = len(sys.path)
    load(make_project, "compiled")

    assert len(sys.path) == length


async def test_an_attribute_beside_a_graph_comes_from_the_same_module(tmp_path: Path) -> None:
    """A file that graphs come from is executed once, whoever else names it."""
    (tmp_path / "agent.py").write_text(
        "from langgraph.graph import START, StateGraph\n"
        "class Note: ...\n"
        "graph = StateGraph(dict).add_node('n', lambda s: s).add_edge(START, 'n')\n"
    )
    entry = GraphEntry("agent", "./agent.py:graph")
    project = Project(directory=tmp_path, graphs={"agent": entry})
    registry = load_registry(project)
    assert registry.broken == {}
    first = load_attribute(project, "./agent.py:Note", "auth.path")
    assert load_attribute(project, "./agent.py:Note", "auth.path") is first
    assert sys.modules[first.__module__].Note is first
