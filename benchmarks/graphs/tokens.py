"""Tokens as fast as they go, or at a pace: as custom events, or as chunks of a model's message."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    """How many, and how."""

    count: int
    start_seconds: float
    """Before the first one: readers gather meanwhile."""
    pace_seconds: float
    """Between two."""
    as_messages: bool
    written: int


class Chatter(BaseChatModel):
    """A model that streams as many words as it is told to."""

    count: int

    @property
    def _llm_type(self) -> str:
        return "chatter"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for number in range(self.count):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"word{number:06d} "))
            # A real one waits for the network here.
            await asyncio.sleep(0)


async def write(state: State) -> State:
    """Write them all."""
    count, pace_seconds = state.get("count", 100), state.get("pace_seconds", 0.0)
    await asyncio.sleep(state.get("start_seconds", 0.0))
    if state.get("as_messages"):
        await Chatter(count=count).ainvoke("go on")
        return {"written": count}
    writer = get_stream_writer()
    for number in range(count):
        writer({"number": number, "token": f"word{number:06d}"})
        # Also without a pace: a token comes out of a loop that breathes.
        await asyncio.sleep(pace_seconds)
    return {"written": count}


builder = StateGraph(State)
builder.add_node("write", write)
builder.add_edge(START, "write")
graph = builder.compile()
