"""A graph that knows for whom it works."""

import operator
from typing import Annotated

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    """A note, and all that were taken on this thread."""

    note: str
    notes: Annotated[list[str], operator.add]


async def take(state: State, config: RunnableConfig) -> State:
    """Write down who said what."""
    user = config["configurable"]["langgraph_auth_user"]
    return {"notes": [f"{user.identity} of {user['org']}: {state['note']}"]}


graph = StateGraph(State).add_node("take", take).add_edge(START, "take").compile()
