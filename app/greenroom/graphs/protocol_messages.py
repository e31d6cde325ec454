"""Messages in the form of generation 2 (streaming-v2.md, 2.2 and 2.3)."""

from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.messages import BaseMessage

from greenroom import wire
from greenroom.graphs.encoding import encode_object, to_plain

ROLES = {"AIMessageChunk": "ai", "HumanMessageChunk": "human"}
"""Of chunks that graphs keep as messages; others' roles are their types."""
SHOWN = (
    "name",
    "tool_calls",
    "invalid_tool_calls",
    "tool_call_id",
    "status",
    "artifact",
    "response_metadata",
)
"""What a message shows besides its type, content and id, where it says anything."""
DELTAS = {"text": "text", "reasoning": "reasoning"}
"""Blocks that come in pieces, with the field that does."""
HEAVY = frozenset({"args", "data", "output", "transcript", "value", "base64"})
"""What a block's start leaves to its end."""


def encode_protocol(value: Any) -> bytes:
    """As `encode_json`, with messages in the form of generation 2."""
    try:
        return wire.dumps(value, _object)
    except (TypeError, ValueError, RecursionError):
        return wire.dumps(to_plain(value))


def _object(value: Any) -> Any:
    return show_message(value) if isinstance(value, BaseMessage) else encode_object(value)


def show_message(message: BaseMessage) -> dict[str, Any]:
    """A message without what it leaves empty, and without what only its provider knows."""
    shown = {"type": role_of(message), "content": message.content, "id": message.id}
    for field in SHOWN:
        if found := getattr(message, field, None):
            shown[field] = found
    return shown


def role_of(message: BaseMessage) -> str:
    """Who speaks: ai, human, system, tool."""
    return ROLES.get(message.type, message.type)


def events_of_message(
    message: BaseMessage, metadata: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """A whole message as the events that would have streamed it."""
    start = {"event": "message-start", "role": role_of(message), "id": message.id}
    if call_id := getattr(message, "tool_call_id", None):
        start["tool_call_id"] = call_id
    yield {**start, "metadata": dict(metadata)} if metadata else start
    for index, block in enumerate(message.content_blocks):
        yield from _events_of_block(index, dict(block))
    finish: dict[str, Any] = {"event": "message-finish"}
    if usage := getattr(message, "usage_metadata", None):
        finish["usage"] = usage
    yield finish


def _events_of_block(index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    field = DELTAS.get(block["type"])
    begun = {key: value for key, value in block.items() if key not in HEAVY and key != field}
    if field is not None:
        begun[field] = ""
    elif block["type"] in {"tool_call", "server_tool_call"}:
        begun["args"] = {}
    yield {"event": "content-block-start", "index": index, "content": begun}
    if field is not None and block.get(field):
        delta = {"type": f"{block['type']}-delta", field: block[field]}
        yield {"event": "content-block-delta", "index": index, "delta": delta}
    yield {"event": "content-block-finish", "index": index, "content": block}
