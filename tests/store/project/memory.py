"""A graph that puts and searches, as its input says."""

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    """A namespace, perhaps an item to put, perhaps a search; what was found."""

    namespace: list[str]
    put: dict[str, Any]
    search: dict[str, Any]
    found: list[Any]


async def use(state: State, runtime: Runtime) -> State:
    """Put, then search."""
    assert runtime.store is not None
    namespace = tuple(state["namespace"])
    if "put" in state:
        await runtime.store.aput(namespace, **state["put"])
    found = await runtime.store.asearch(namespace, **state.get("search", {}))
    return {"found": [[item.key, item.value, item.score] for item in found]}


graph = StateGraph(State).add_node("use", use).add_edge(START, "use").add_edge("use", END).compile()
