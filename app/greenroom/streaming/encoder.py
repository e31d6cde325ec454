"""What a graph streams, as the events of generation 1 (streaming-v1.md, section 4)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from langchain_core.messages import BaseMessage, BaseMessageChunk, message_chunk_to_message

from greenroom.graphs.encoding import encode_json

Emit = Callable[[str, bytes], None]

SUFFIXED = frozenset({"values", "updates", "custom", "messages", "tasks", "debug", "checkpoints"})
GRAPH_MODES = {"messages-tuple": "messages"}
"""Our names of modes where langgraph's differ."""
POINTER_KEYS = ("checkpoint_id", "thread_id", "checkpoint_ns")


def graph_modes(stream_modes: Iterable[str]) -> list[str]:
    """The modes to ask a graph for; `events` is no mode of a graph."""
    modes = (GRAPH_MODES.get(mode, mode) for mode in stream_modes if mode != "events")
    return list(dict.fromkeys(modes))


class Encoder:
    """Turns the parts of one run's stream into events and emits them."""

    def __init__(self, stream_modes: Iterable[str], emit: Emit, *, has_checkpoints: bool) -> None:
        self.modes = frozenset(stream_modes)
        self.emit = emit
        self.has_checkpoints = has_checkpoints
        """False for a stateless run, whose checkpoints nobody can ever read (http.md, 4)."""
        self.messages = MessageAccumulator()

    def part(self, namespace: tuple[str, ...], mode: str, data: Any) -> None:
        """Emit what one part of the graph's stream says, if a mode was asked for that shows it."""
        if mode == "messages":
            self._message(namespace, data)
        elif mode in self.modes:
            shown = self._shape(mode, data)
            if shown is not None:
                self.emit(named(mode, namespace), encode_json(shown))

    def callback(self, event: Mapping[str, Any]) -> None:
        """Emit one event of `astream_events`."""
        self.emit("events", encode_json(event))

    def _shape(self, mode: str, data: Any) -> Any:
        """The wire's form of a part; None for one that is not sent."""
        if mode == "debug":
            return self._debug(data)
        if mode == "checkpoints":
            return visible_checkpoint(data) if self.has_checkpoints else None
        if mode == "tasks":
            return visible_task(data)
        return data

    def _debug(self, data: Mapping[str, Any]) -> Any:
        if data["type"] != "checkpoint":
            return {**data, "payload": visible_task(data["payload"])}
        if not self.has_checkpoints:
            return None
        payload = visible_checkpoint(data["payload"])
        payload["checkpoint"] = pointer(payload["config"])
        payload["parent_checkpoint"] = pointer(payload["parent_config"])
        return {**data, "payload": payload}

    def _message(self, namespace: tuple[str, ...], data: tuple[Any, dict[str, Any]]) -> None:
        message, about = data
        # Both forms are called messages; the tuple form wins where both were asked for.
        if "messages-tuple" in self.modes:
            self.emit(named("messages", namespace), encode_json([message, about]))
            return
        for event, shown in self.messages.add(message, about):
            self.emit(event, encode_json(shown))


class MessageAccumulator:
    """Builds messages up from their chunks, for `stream_mode: messages` (section 5.2)."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.partial: dict[str, BaseMessageChunk] = {}

    def add(self, message: Any, about: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the events that one chunk or whole message brings."""
        if not isinstance(message, BaseMessage):
            return
        key = message.id or ""
        if key not in self.seen:
            self.seen.add(key)
            yield "messages/metadata", {key: {"metadata": about}}
        if not isinstance(message, BaseMessageChunk):
            yield "messages/complete", [message]
            return
        so_far = self.partial.get(key)
        whole = message if so_far is None else so_far + message
        self.partial[key] = whole
        yield "messages/partial", [message_chunk_to_message(whole)]


def named(event: str, namespace: tuple[str, ...]) -> str:
    """The event's name; of a subgraph with its namespace."""
    return "|".join([event, *namespace]) if event in SUFFIXED else event


def visible_checkpoint(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without what langgraph keeps for itself in the configs."""
    return {
        **payload,
        "config": visible_config(payload["config"]),
        "parent_config": visible_config(payload.get("parent_config")),
    }


def visible_config(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A config without internal keys; None stays None."""
    if config is None:
        return None
    configurable = config.get("configurable") or {}
    shown = {key: value for key, value in configurable.items() if not key.startswith("__")}
    return {"configurable": shown}


def visible_task(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A task or its result; an exception is shown as an object."""
    error = payload.get("error")
    if isinstance(error, BaseException):
        return {**payload, "error": {"error": type(error).__name__, "message": str(error)}}
    return dict(payload)


def pointer(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The three keys that name a checkpoint."""
    if config is None:
        return None
    configurable = config["configurable"]
    return {key: configurable.get(key) for key in POINTER_KEYS}
