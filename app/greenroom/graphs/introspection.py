"""What a graph looks like: its drawing and its JSON schemas (http.md, section 1)."""

from collections.abc import Callable
from typing import Any

from langgraph.channels.base import BaseChannel
from langgraph.pregel import Pregel
from pydantic import Field, create_model

from greenroom.logs import get_logger

log = get_logger(__name__)

Graph = Pregel[Any, Any, Any, Any]
Json = dict[str, Any]


def draw_graph(graph: Graph, *, xray: bool | int = False) -> Json:
    """List nodes and edges.

    Args:
        xray: True opens all nested graphs, a number those down to that depth.
    Returns:
        `{"nodes": [{"id", "type", "data": {"name"}}], "edges": [{"source", "target", "data"?,
        "conditional"?}]}`; a node without code of its own, such as `__end__`, has its id alone.
    """
    drawing = graph.get_graph(xray=xray).to_json()
    for node in drawing["nodes"]:
        # Which of langgraph's classes wraps the node is nobody's business.
        if isinstance(data := node.get("data"), dict):
            data.pop("id", None)
    return drawing


def graph_schemas(graph: Graph) -> Json:
    """Build the five JSON schemas; one that cannot be built is None, and logged.

    Without a context schema `config_schema` is `{}` and `context_schema` None.
    """
    context = _schema(graph, "context_schema", graph.get_context_jsonschema)
    return {
        "input_schema": _schema(graph, "input_schema", graph.get_input_jsonschema),
        "output_schema": _schema(graph, "output_schema", graph.get_output_jsonschema),
        "state_schema": _schema(graph, "state_schema", lambda: _state_schema(graph)),
        "config_schema": {**context, "title": "Configurable"} if context else {},
        "context_schema": context,
    }


def subgraph_schemas(graph: Graph, namespace: str | None = None, *, recurse: bool = False) -> Json:
    """Map each nested graph's namespace to its schemas.

    Args:
        namespace: only this one, levels joined by `|`; `{}` when there is none.
        recurse: all levels; otherwise the first alone.
    """
    # A deep name means what it says, also without `recurse`.
    recurse = recurse or (namespace is not None and "|" in namespace)
    return {
        name: graph_schemas(nested)  # type: ignore[arg-type]
        for name, nested in graph.get_subgraphs(namespace=namespace, recurse=recurse)
    }


def _schema(graph: Graph, name: str, build: Callable[[], Json | None]) -> Json | None:
    try:
        return build()
    except Exception as error:  # noqa: BLE001 - users' types decide whether a schema exists
        log.warning(
            "schema cannot be built", graph_id=graph.name, schema=name, error=repr(error)[:500]
        )
        return None


def _state_schema(graph: Graph) -> Json:
    # Channels may be called what a pydantic field may not (`_x`, `copy`): so aliases.
    fields: dict[str, Any] = {
        f"field_{index}": (channel.UpdateType, Field(None, alias=name))
        for index, name in enumerate(graph.stream_channels_list)
        if isinstance(channel := graph.channels.get(name), BaseChannel)
    }
    schema: Json = create_model(graph.get_name("State"), **fields).model_json_schema()
    return schema
