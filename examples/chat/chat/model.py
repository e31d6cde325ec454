"""A chat model that needs no key and no network: it answers from a few rules, word by word."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

WEATHER = re.compile(r"(?i:weather in) (?P<city>[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)")
"""A city is every capitalised word that follows."""
POSTCARD = re.compile(r"(?i:postcard to) (?P<city>[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)")

ANSWERS = {"get_weather": "I looked it up: ", "send_postcard": "Done: "}
"""What is said before a tool's result."""


class RuleBasedChatModel(BaseChatModel):
    """Streams like a hosted model, so that everything around it can be tried out offline."""

    word_seconds: float = 0.05
    """The pause between two words."""

    @property
    def _llm_type(self) -> str:
        return "rule-based"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=reply_to(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for number, chunk in enumerate(chunks_of(reply_to(messages))):
            if number:
                time.sleep(self.word_seconds)
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for number, chunk in enumerate(chunks_of(reply_to(messages))):
            if number:
                await asyncio.sleep(self.word_seconds)
            yield ChatGenerationChunk(message=chunk)


def reply_to(messages: list[BaseMessage]) -> AIMessage:
    """Call the tool that the last message asks for; else answer in words."""
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(f"{ANSWERS.get(str(last.name), '')}{last.text}")
    for tool, pattern in (("get_weather", WEATHER), ("send_postcard", POSTCARD)):
        if found := pattern.search(last.text):
            call = ToolCall(name=tool, args={"city": found["city"]}, id=f"call_{uuid4().hex}")
            return AIMessage("", tool_calls=[call])
    return AIMessage(f"You said: {last.text}. Ask me about the weather in a city of your choice.")


def chunks_of(reply: AIMessage) -> Iterator[AIMessageChunk]:
    """Cut a reply into what a hosted model would send: one word, or the tool calls."""
    if reply.tool_calls:
        yield AIMessageChunk(content="", tool_calls=reply.tool_calls)
        return
    for word in re.findall(r"\S+\s*", reply.text):
        yield AIMessageChunk(content=word)
