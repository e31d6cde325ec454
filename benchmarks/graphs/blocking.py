"""An asynchronous node that blocks its event loop, as many do by mistake."""

import time
from typing import TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    """How long, in seconds."""

    seconds: float
    blocked: float


async def block(state: State) -> State:
    """Hold on to the thread that runs us."""
    seconds = state.get("seconds", 1.0)
    time.sleep(seconds)  # noqa: ASYNC251 (the mistake itself)
    return {"blocked": seconds}


builder = StateGraph(State)
builder.add_node("block", block)
builder.add_edge(START, "block")
graph = builder.compile()
