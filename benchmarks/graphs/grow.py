"""A thread that grows: one checkpoint a step, with a state of the size asked for."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """How many steps, and how many bytes each of them rewrites."""

    steps: int
    payload_bytes: int
    step: int
    payload: str


def write(state: State) -> State:
    """Replace the payload by one that differs from the step before."""
    step = state.get("step", 0) + 1
    return {"step": step, "payload": chr(ord("a") + step % 26) * state.get("payload_bytes", 10)}


def whither(state: State) -> str:
    """Go on until all steps are done."""
    return "write" if state["step"] < state.get("steps", 1) else END


builder = StateGraph(State)
builder.add_node("write", write)
builder.add_edge(START, "write")
builder.add_conditional_edges("write", whither, ["write", END])
graph = builder.compile()
