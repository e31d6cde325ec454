"""Graphs that the tests run on real workers."""

import asyncio
import operator
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

# Which processes import users' code: each leaves its pid.
if seen := os.environ.get("TEST_IMPORTS"):
    with Path(seen).open("a") as file:
        file.write(f"{os.getpid()}\n")


class State(TypedDict, total=False):
    """What the tests' graphs pass on."""

    text: str
    n: int
    seconds: float
    kind: str
    path: str
    trail: Annotated[list[Any], operator.add]


def single(node: Any) -> Any:
    """A graph of one node."""
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile()


def repeat(state: State) -> State:
    """Say what came in."""
    return {"trail": [state.get("text", "")]}


async def step(state: State) -> State:
    """Tell the number of the step, then take its time."""
    number = len(state.get("trail", []))
    get_stream_writer()({"step": number, "pid": os.getpid()})
    if journal := state.get("path"):
        with Path(journal).open("a") as file:  # noqa: ASYNC230 (one short line)
            file.write(f"{time.monotonic()} {os.getpid()} {number}\n")
    await asyncio.sleep(state.get("seconds", 0.05))
    return {"trail": [number]}


def more(state: State) -> str:
    """Go on until there are n steps."""
    return "step" if len(state["trail"]) < state.get("n", 3) else END


async def block(state: State) -> State:
    """Block the loop, as careless async code does, until a file appears."""
    get_stream_writer()({"blocking": True})
    while not Path(state["path"]).exists():
        time.sleep(0.01)  # noqa: ASYNC251 (blocking is what this graph is for)
    return {"trail": ["done"]}


async def alone(state: State) -> State:
    """Fail if another run of the thread is at work."""
    lock = Path(state["path"])
    descriptor = os.open(lock, os.O_CREAT | os.O_EXCL)
    try:
        await asyncio.sleep(0.002)
    finally:
        os.close(descriptor)
        lock.unlink()
    return {"trail": [1]}


class Odd(Exception):
    """Raised by hostile code, with a secret in its text."""


async def misbehave(state: State) -> State:
    """Do what the input says."""
    match state["kind"]:
        case "exit":
            sys.exit(3)
        case "raise":
            raise Odd("password=hunter2")
        case "die":
            os._exit(1)
        case "unserialisable":
            return {"trail": [lambda: None]}
        case "text":
            return {"text": "a\x00b\ud800c", "trail": ["a\x00b", {"\x00k": "\udfff"}, float("nan")]}
    return {"trail": ["fine"]}


def question(state: State) -> State:
    """Ask a human."""
    return {"trail": [interrupt({"question": state.get("text", "?")})]}


def locate(_state: State) -> State:
    """Tell which process runs this."""
    return {"trail": [os.getpid()]}


echo = single(repeat)
blocking = single(block)
exclusive = single(alone)
hostile = single(misbehave)
ask = single(question)
where = single(locate)
steps = (
    StateGraph(State)
    .add_node("step", step)
    .add_edge(START, "step")
    .add_conditional_edges("step", more, ["step", END])
    .compile()
)


async def cling(state: State) -> State:
    """Refuse to be cancelled."""
    get_stream_writer()({"clinging": True})
    while not Path(state["path"]).exists():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    return {"trail": ["let go"]}


clinging = single(cling)


class Load(TypedDict, total=False):
    """How much the graph `heavy` is to make, of what, and the file that it waits for."""

    kind: str
    size: int
    count: int
    path: str
    made: Any


async def weigh(state: Load) -> Load:
    """Make as much as the input asks for: of state, of events, of messages, of levels."""
    size, count = state.get("size", 1), state.get("count", 1)
    while not Path(state.get("path", "/")).exists():  # noqa: ASYNC110 (a file tells of no event)
        await asyncio.sleep(0.01)
    match state["kind"]:
        case "events":
            for number in range(count):
                get_stream_writer()({"number": number, "blob": "x" * size})
                # No faster than a brisk reader reads.
                await asyncio.sleep(0.005)
        case "state":
            return {"made": "x" * size}
        case "messages":
            return {"made": [{"type": "human", "content": f"message {n}"} for n in range(count)]}
        case "levels":
            nested: Any = "leaf"
            for _ in range(count):
                nested = [nested]
            return {"made": nested}
    return {"made": count}


heavy = StateGraph(Load).add_node("node", weigh).add_edge(START, "node").compile()
