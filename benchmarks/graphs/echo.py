"""One trivial node: what is measured is everything around it."""

from typing import TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    """A text and its answer."""

    text: str
    echo: str


def answer(state: State) -> State:
    """Turn the text around. Synchronous, as most nodes are."""
    return {"echo": state.get("text", "")[::-1]}


builder = StateGraph(State)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
graph = builder.compile()
