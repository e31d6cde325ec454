"""A graph that does nothing, quickly."""

from typing import Any, TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    """What is handed through."""

    text: str


def node(state: State) -> dict[str, Any]:
    """Give back what came."""
    return {"text": state.get("text", "")}


nothing = StateGraph(State).add_node("node", node).add_edge(START, "node").compile()
