"""Graphs: one that answers at once, and one that waits in its middle."""

import time
from pathlib import Path

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    """What was said, and the file that is waited for."""

    text: str
    flag: str


def wait(state: State) -> State:
    """Go on when somebody makes the file."""
    while not Path(state["flag"]).exists():
        time.sleep(0.02)
    return {"text": "second"}


echo = StateGraph(State).add_node("say", lambda state: state).add_edge(START, "say").compile()
gated = (
    StateGraph(State)
    .add_node("first", lambda _: {"text": "first"})
    .add_node("wait", wait)
    .add_edge(START, "first")
    .add_edge("first", "wait")
    .compile()
)
