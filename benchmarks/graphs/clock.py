"""A graph that tells when its only node began to run."""

import time
from typing import TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    """What the node leaves; a run needs no input of its own."""

    started_at: float


async def tell_time(_state: State) -> State:
    """Write the Unix time as a custom event, before anything else."""
    started_at = time.time()
    get_stream_writer()({"started_at": started_at})
    return {"started_at": started_at}


builder = StateGraph(State)
builder.add_node("tell_time", tell_time)
builder.add_edge(START, "tell_time")
graph = builder.compile()
