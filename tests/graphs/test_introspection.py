"""Drawings and schemas."""

from collections.abc import Callable
from typing import Any

import pytest

from greenroom.config import Project
from greenroom.graphs.introspection import draw_graph, graph_schemas, subgraph_schemas
from greenroom.graphs.registry import StaticGraph, load_registry

GRAPHS = """
    from dataclasses import dataclass
    from langgraph.func import entrypoint
    from langgraph.graph import END, START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        text: str
        copy: int

    class Strange:
        pass

    class StrangeState(TypedDict, total=False):
        strange: Strange
        text: str

    @dataclass
    class Context:
        tone: str = "plain"

    def nest(child, name, state=State, **options):
        graph = StateGraph(state, **options).add_node(name, child).add_node("last", lambda s: s)
        graph.add_edge(START, name).add_conditional_edges(name, lambda s: END, ["last", END])
        return graph.compile()

    inner = nest(lambda s: s, "leaf")
    outer = nest(nest(inner, "second"), "first", context_schema=Context)
    strange = nest(lambda s: s, "leaf", StrangeState, input_schema=State, output_schema=State)

    @entrypoint()
    def function(job: State) -> dict:
        return {}
"""


@pytest.fixture
def graph(make_project: Callable[..., Project]) -> Callable[[str], Any]:
    """Load one of GRAPHS."""
    names = ["inner", "outer", "strange", "function"]
    project = make_project({"graphs.py": GRAPHS}, {name: f"./graphs.py:{name}" for name in names})
    registry = load_registry(project)

    def find(name: str) -> Any:
        loaded = registry.loaded[name]
        assert isinstance(loaded, StaticGraph)
        return loaded.graph

    return find


def test_a_drawing_lists_nodes_and_edges(graph: Callable[[str], Any]) -> None:
    """The end has an id alone; edges say when they are conditional."""
    drawing = draw_graph(graph("inner"))

    assert drawing["nodes"] == [
        {"id": "__start__", "type": "runnable", "data": {"name": "__start__"}},
        {"id": "leaf", "type": "runnable", "data": {"name": "leaf"}},
        {"id": "last", "type": "runnable", "data": {"name": "last"}},
        {"id": "__end__"},
    ]
    assert {"source": "__start__", "target": "leaf"} in drawing["edges"]
    assert {"source": "leaf", "target": "last", "conditional": True} in drawing["edges"]


@pytest.mark.parametrize(
    ("xray", "node"),
    [(False, "first"), (1, "first:second"), (2, "first:second:leaf"), (True, "first:second:leaf")],
)
def test_xray_opens_nested_graphs_to_its_depth(
    graph: Callable[[str], Any], xray: bool | int, node: str
) -> None:
    """A number is a depth, true is all of them."""
    ids = {each["id"] for each in draw_graph(graph("outer"), xray=xray)["nodes"]}

    assert node in ids
    assert not any(each.startswith(f"{node}:") for each in ids)


def test_schemas_describe_input_output_state_and_context(graph: Callable[[str], Any]) -> None:
    """State properties have a default of null, and may be called like a method of pydantic's."""
    schemas = graph_schemas(graph("outer"))

    assert list(schemas["input_schema"]["properties"]) == ["text", "copy"]
    assert list(schemas["output_schema"]["properties"]) == ["text", "copy"]
    assert schemas["state_schema"]["properties"]["copy"] == {
        "default": None,
        "title": "Copy",
        "type": "integer",
    }
    assert schemas["context_schema"]["properties"]["tone"]["default"] == "plain"
    assert schemas["config_schema"]["properties"] == schemas["context_schema"]["properties"]


def test_without_a_context_schema_config_is_empty_and_context_null(
    graph: Callable[[str], Any],
) -> None:
    """As the reference has it; functions have an input, too."""
    schemas = graph_schemas(graph("function"))

    assert schemas["config_schema"] == {} and schemas["context_schema"] is None
    assert "text" in str(schemas["input_schema"])


def test_a_schema_that_cannot_be_built_is_null_and_logged(
    graph: Callable[[str], Any],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others are there all the same."""
    schemas = graph_schemas(graph("strange"))

    assert schemas["state_schema"] is None
    assert "text" in schemas["input_schema"]["properties"]
    # Printed, or a record, as whoever has configured logging in this process wants it.
    told = "".join(capfd.readouterr()) + str([record.msg for record in caplog.records])
    assert "schema cannot be built" in told


def test_subgraphs_are_listed_by_namespace(graph: Callable[[str], Any]) -> None:
    """The first level, all levels, or one by name; none is an empty answer."""
    outer = graph("outer")

    assert list(subgraph_schemas(outer)) == ["first"]
    assert list(subgraph_schemas(outer, recurse=True)) == ["first", "first|second"]
    assert list(subgraph_schemas(outer, "first")) == ["first"]
    assert list(subgraph_schemas(outer, "first|second")) == ["first|second"]
    assert subgraph_schemas(outer, "nothing") == {}
    assert list(subgraph_schemas(outer)["first"]) == [
        "input_schema",
        "output_schema",
        "state_schema",
        "config_schema",
        "context_schema",
    ]
