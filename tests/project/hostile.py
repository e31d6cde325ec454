"""Graphs of the worst kind: they block, spin, crash, and fail where one does not expect it."""

import asyncio
import ctypes
import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

THREADS = 10_000


def explode(_left: Any, right: Any) -> Any:
    """Reduce, until the wrong thing comes."""
    if right == "explode":
        raise RuntimeError("a reducer fails")
    return right


class State(TypedDict, total=False):
    """What to do, and where to tell of it."""

    kind: str
    path: str
    reduced: Annotated[str, explode]


def spin_for_ever() -> None:
    """Compute nothing, and never let go."""
    while True:
        pass


async def misbehave(state: State) -> State:
    """Do on the loop what the input says; a file at `path` tells that it begins."""
    if path := state.get("path"):
        Path(path).touch()
    match state["kind"]:
        case "spin":
            spin_for_ever()
        case "sleep":
            time.sleep(3600)  # noqa: ASYNC251 (blocking is what this graph is for)
        case "freeze":
            re.match("(a+)+b", "a" * 64)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "threads":
            gate = threading.Event()
            threads = [threading.Thread(target=gate.wait, daemon=True) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            gate.set()
            for thread in threads:
                thread.join()
        case "reducer":
            return {"reduced": "explode"}
    return {"reduced": "fine"}


def misbehave_in_a_thread(state: State) -> State:
    """Do in a sync node what the input says; a file at `path` tells that it was stopped."""
    try:
        if state["kind"] == "sleep":
            time.sleep(3600)
        spin_for_ever()
    finally:
        Path(state["path"]).touch()
    return {"reduced": "never"}


async def chatter(_state: State) -> State:
    """Stream without end."""
    while True:
        get_stream_writer()({"more": "x" * 100})
        await asyncio.sleep(0)


def compiled(node: Any) -> Any:
    """A graph of one node."""
    builder = StateGraph(State).add_node("node", node)
    return builder.add_edge(START, "node").add_edge("node", END).compile()


loop = compiled(misbehave)
thread = compiled(misbehave_in_a_thread)
endless = compiled(chatter)


def broken_factory(_config: RunnableConfig) -> Any:
    """Fail before there is a graph."""
    raise RuntimeError("the factory fails")


@asynccontextmanager
async def stubborn_factory(config: RunnableConfig) -> AsyncIterator[Any]:
    """Refuse to be cancelled while the graph is being closed, until a file appears."""
    yield loop
    path = Path(config["configurable"]["path"])
    while not path.exists():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
