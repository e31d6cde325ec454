"""A graph that stops for a human: it pays a refund only when somebody agrees."""

from typing import Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt


class Request(TypedDict):
    """The input."""

    customer: str
    amount: float


class State(Request, total=False):
    """The request, and what became of it."""

    result: str


class Decision(TypedDict, total=False):
    """What the human answers: the value to resume with."""

    approved: bool
    amount: float
    """Pay this much instead of what was asked."""


def ask_human(state: State) -> Command[Literal["pay", "decline"]]:
    """Stop until a human decides. The node runs again from its top with the answer."""
    decision: Decision = interrupt(
        {
            "question": f"Refund {state['amount']:.2f} to {state['customer']}?",
            "answer_with": {"approved": "true or false", "amount": "optional"},
        }
    )
    if not decision.get("approved"):
        return Command(goto="decline")
    return Command(goto="pay", update={"amount": decision.get("amount", state["amount"])})


def pay(state: State) -> dict[str, str]:
    """Where the payment would be made."""
    return {"result": f"refunded {state['amount']:.2f} to {state['customer']}"}


def decline(state: State) -> dict[str, str]:
    """Leave everything as it is."""
    return {"result": f"no refund for {state['customer']}"}


builder = StateGraph(State, input_schema=Request)
builder.add_node("ask_human", ask_human)
builder.add_node("pay", pay)
builder.add_node("decline", decline)
builder.add_edge(START, "ask_human")
builder.add_edge("pay", END)
builder.add_edge("decline", END)
graph = builder.compile()
