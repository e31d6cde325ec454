"""Graphs that tell who they think they work for."""

import asyncio
import operator
from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk.runtime import ServerRuntime
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    """What was said and by whom."""

    text: str
    seconds: float
    trail: Annotated[list[Any], operator.add]


async def repeat(state: State, config: RunnableConfig) -> State:
    """Say who calls."""
    await asyncio.sleep(state.get("seconds", 0))
    given = config["configurable"]
    user = given["langgraph_auth_user"]
    seen = None
    if user is not None:
        seen = [user.identity, user["identity"], user.get("token")]
    return {
        "trail": [
            {
                "text": state.get("text", ""),
                "user": seen,
                "user_id": given["langgraph_auth_user_id"],
                "permissions": given["langgraph_auth_permissions"],
            }
        ]
    }


echo = StateGraph(State).add_node("repeat", repeat).add_edge(START, "repeat").compile()


def made(runtime: ServerRuntime) -> Any:
    """A factory that is told who calls."""
    name = runtime.user.identity if runtime.user is not None else "nobody"

    async def tell(state: State) -> State:
        return {"trail": [name]}

    return StateGraph(State).add_node("tell", tell).add_edge(START, "tell").compile()
