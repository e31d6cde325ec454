"""A graph, so that there is one."""

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    """What was said."""

    text: str


echo = StateGraph(State).add_node("say", lambda state: state).add_edge(START, "say").compile()
