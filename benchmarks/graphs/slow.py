"""A run that waits and works not, as one does that calls a model."""

import asyncio
from typing import TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    """How long, in seconds."""

    seconds: float
    slept: float


async def sleep(state: State) -> State:
    """Wait without blocking anybody."""
    seconds = state.get("seconds", 1.0)
    await asyncio.sleep(seconds)
    return {"slept": seconds}


builder = StateGraph(State)
builder.add_node("sleep", sleep)
builder.add_edge(START, "sleep")
graph = builder.compile()
