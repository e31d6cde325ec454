"""Graphs that talk: models that stream, tools, questions from within nested graphs."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt
from typing_extensions import TypedDict


class Parrot(BaseChatModel):
    """Says what it was told, word by word; adds by a tool when asked `add a b`."""

    pause_seconds: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _reply(self, messages: list[BaseMessage]) -> AIMessage:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            return AIMessage(content=f"the sum is {last.text}")
        if found := re.fullmatch(r"add (\d+) (\d+)", last.text):
            args = {"a": int(found[1]), "b": int(found[2])}
            return AIMessage(content="", tool_calls=[{"name": "add", "args": args, "id": "call_1"}])
        return AIMessage(content=f"you said {last.text}")

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages))])

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = self._reply(messages)
        if reply.tool_calls:
            yield ChatGenerationChunk(
                message=AIMessageChunk(content="", tool_calls=reply.tool_calls)
            )
            return
        for word in re.findall(r"\S+\s*", str(reply.content)):
            await asyncio.sleep(self.pause_seconds)
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))


@tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def chatting(model: BaseChatModel) -> Any:
    """An agent around a model."""

    async def call(state: MessagesState) -> MessagesState:
        get_stream_writer()({"name": "progress", "payload": {"messages": len(state["messages"])}})
        return {"messages": [await model.ainvoke(state["messages"])]}

    return (
        StateGraph(MessagesState)
        .add_node("model", call)
        .add_node("tools", ToolNode([add]))
        .add_edge(START, "model")
        .add_conditional_edges("model", tools_condition)
        .add_edge("tools", "model")
        .compile()
    )


class Asked(TypedDict, total=False):
    """A question and its answer."""

    question: str
    answer: str


def ask(state: Asked) -> Asked:
    """Ask a human, unless the answer is known."""
    return {"answer": state.get("answer") or interrupt({"ask": state["question"]})}


def repeat(state: Asked) -> Asked:
    """Go on with the answer."""
    return {"answer": f"so: {state['answer']}"}


class Two(TypedDict, total=False):
    """Two questions at once."""

    left: str
    right: str


def ask_left(_state: Two) -> Two:
    """Ask one thing."""
    return {"left": interrupt("left?")}


def ask_right(_state: Two) -> Two:
    """Ask another."""
    return {"right": interrupt("right?")}


async def speak(_state: Two) -> Two:
    """Speak beside another model."""
    reply = await Parrot(pause_seconds=0.01).ainvoke("one two three four")
    return {"left": reply.text}


async def echo(_state: Two) -> Two:
    """Speak beside the other."""
    reply = await Parrot(pause_seconds=0.01).ainvoke("five six seven eight")
    return {"right": reply.text}


chat = chatting(Parrot())
slow_chat = chatting(Parrot(pause_seconds=0.1))
asker = StateGraph(Asked).add_node("ask", ask).add_edge(START, "ask").compile()
nested_ask = (
    StateGraph(Asked)
    .add_node("child", asker)
    .add_node("repeat", repeat)
    .add_edge(START, "child")
    .add_edge("child", "repeat")
    .compile()
)
two_questions = (
    StateGraph(Two)
    .add_node("ask_left", ask_left)
    .add_node("ask_right", ask_right)
    .add_edge(START, "ask_left")
    .add_edge(START, "ask_right")
    .add_edge("ask_left", END)
    .add_edge("ask_right", END)
    .compile()
)
two_voices = (
    StateGraph(Two)
    .add_node("speak", speak)
    .add_node("echo", echo)
    .add_edge(START, "speak")
    .add_edge(START, "echo")
    .compile()
)
