"""What a graph streams, as the events of generation 2 (streaming-v2.md, section 2)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage, BaseMessageChunk, ToolMessage

from greenroom import wire
from greenroom.graphs.encoding import encode_json
from greenroom.graphs.protocol_messages import encode_protocol, events_of_message

Namespace = tuple[str, ...]

NATIVE_MODES = ("values", "updates", "custom", "messages", "tools", "tasks", "checkpoints")
"""What a run of generation 2 asks its graph for."""
INTERRUPT = "__interrupt__"
TOOL_FAILED = "the tool raised an error"
PROVIDER_KEYS = {"ls_provider": "provider", "ls_model_name": "model"}


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that has no number yet."""

    method: str
    namespace: Namespace
    data: bytes
    """JSON."""
    event_id: str | None = None
    """Of a derived event; None: made of its number."""
    name: str = ""
    """Of a custom event, for who asked for this name alone."""
    node: str | None = None
    is_numbered: bool = True


class ProtocolEncoder:
    """Turns the parts of one run's stream into drafts of events."""

    def __init__(
        self,
        run_id: UUID,
        graph_id: str,
        emit: Callable[..., None],
        describe: Callable[[BaseException], str],
        *,
        is_native: bool,
    ) -> None:
        """Emit nothing yet.

        Args:
            emit: takes drafts, those of one call to stay together.
            describe: what clients may read about an exception.
            is_native: the run is of generation 2; of others only what their modes bring is shown.
        """
        self.run_id = run_id
        self.graph_id = graph_id
        self.emit = emit
        self.describe = describe
        self.is_native = is_native
        self.messages = Messages()
        self.subgraphs: dict[Namespace, Subgraph] = {}
        self.asked: dict[str, Namespace] = {}
        """Where an interrupt was first seen: the innermost graph tells of it first."""
        self._held: dict[Namespace, list[Draft]] = {}
        self._checkpoints: dict[Namespace, Draft] = {}
        """The newest of each graph."""

    def begin(self) -> None:
        """The root graph runs."""
        self.emit(self._lifecycle((), {"event": "running", "graph_name": self.graph_id}))

    def part(
        self, namespace: Namespace, mode: str, data: Any, interrupts: Iterable[Any] = ()
    ) -> None:
        """Emit what one part of the graph's stream says.

        Args:
            interrupts: those that came with values.
        """
        if mode == "checkpoints":
            self._checkpoint(namespace, data)
            return
        self.release()
        match mode:
            case "values":
                self._values(namespace, data, interrupts)
            case "updates":
                self._updates(namespace, data)
            case "custom":
                self._custom(namespace, data)
            case "tasks":
                self._task(namespace, data)
            case "messages" if self.is_native:
                self._message(namespace, *data)
            case "tools":
                self._tool(namespace, data)

    def release(self) -> None:
        """Emit values that waited for their checkpoint in vain."""
        if self._held:
            self.emit(*self._take_held())

    def end(
        self, event: str, interrupts: Iterable[Mapping[str, Any]], error: str | None = None
    ) -> list[Draft]:
        """The last drafts: nested graphs that are still open, questions, the end of the root.

        Args:
            event: completed, failed or interrupted.
            interrupts: `{"id", "value"}` of all that the thread waits for.
        """
        told = {"event": event, "graph_name": self.graph_id}
        return [
            *self._take_held(),
            *(
                self._lifecycle(namespace, {"event": event, "graph_name": nested.graph_name})
                for namespace, nested in reversed(self.subgraphs.items())
            ),
            *(self._question(asked["id"], asked["value"]) for asked in interrupts),
            self._lifecycle((), told if error is None else {**told, "error": error}),
        ]

    def _take_held(self) -> list[Draft]:
        held, self._held = self._held, {}
        return [draft for drafts in held.values() for draft in drafts]

    def _values(self, namespace: Namespace, data: Any, interrupts: Iterable[Any]) -> None:
        if isinstance(data, Mapping) and INTERRUPT in data:
            interrupts = [*interrupts, *data[INTERRUPT]]
            data = {key: value for key, value in data.items() if key != INTERRUPT}
            if not data:
                # Older forms tell of interrupts alone.
                self._note(namespace, interrupts)
                return
        self._note(namespace, interrupts)
        draft = Draft("values", namespace, encode_protocol(data))
        if self.is_native:
            # Its checkpoint, which readers want before it, is the graph's next part.
            # Only those that come with an interrupt have none: they show the last state once more.
            last = self._checkpoints.get(namespace) if interrupts else None
            self._held[namespace] = [draft] if last is None else [last, draft]
        else:
            self.emit(draft)

    def _updates(self, namespace: Namespace, data: Any) -> None:
        if not isinstance(data, Mapping):
            return
        if INTERRUPT in data:
            self._note(namespace, data[INTERRUPT])
            data = {key: value for key, value in data.items() if key != INTERRUPT}
        if self.is_native:
            if data:
                self.emit(Draft("updates", namespace, encode_protocol(data)))
            return
        for node, update in data.items():
            self.emit(Draft("updates", namespace, encode_protocol(update), node=node))

    def _custom(self, namespace: Namespace, data: Any) -> None:
        name = data.get("name") if isinstance(data, Mapping) else None
        shown = data if self.is_native else {"payload": data}
        name = name if isinstance(name, str) else ""
        self.emit(Draft("custom", namespace, encode_protocol(shown), name=name))

    def _checkpoint(self, namespace: Namespace, data: Mapping[str, Any]) -> None:
        held = self._held.pop(namespace, None)
        self.release()
        if held is None:
            return
        metadata, parent = data.get("metadata") or {}, data.get("parent_config")
        shown = {
            "id": data["config"]["configurable"]["checkpoint_id"],
            "step": metadata.get("step"),
            "source": metadata.get("source"),
        }
        if parent:
            shown["parent_id"] = parent["configurable"]["checkpoint_id"]
        checkpoint = Draft("checkpoints", namespace, wire.dumps(shown), is_numbered=False)
        self._checkpoints[namespace] = checkpoint
        self.emit(checkpoint, held[-1])

    def _task(self, namespace: Namespace, data: Mapping[str, Any]) -> None:
        is_result = "result" in data
        if is_result:
            self._note(namespace, data.get("interrupts") or ())
        else:
            self._discover(namespace, data)
        if isinstance(error := data.get("error"), BaseException):
            told = {"error": type(error).__name__, "message": self.describe(error)}
            data = {**data, "error": told}
        self.emit(Draft("tasks", namespace, encode_protocol(data)))
        if is_result:
            for child in [*self.subgraphs]:
                if child[:-1] == namespace and self.subgraphs[child].task_id == data["id"]:
                    self.emit(self._end_of(child, *self._outcome(data)))

    def _outcome(self, data: Mapping[str, Any]) -> tuple[str, str | None]:
        if data.get("interrupts"):
            return "interrupted", None
        if (error := data.get("error")) is None:
            return "completed", None
        return "failed", error["message"] if isinstance(error, Mapping) else str(error)

    def _discover(self, namespace: Namespace, data: Mapping[str, Any]) -> None:
        """The first task of a nested graph tells that it has started."""
        if not namespace or namespace in self.subgraphs:
            self._remember_call(data)
            return
        node, _, task_id = namespace[-1].partition(":")
        agent = (data.get("metadata") or {}).get("lc_agent_name")
        graph_name = agent or node
        told: dict[str, Any] = {
            "event": "started",
            "namespace": list(namespace),
            "graph_name": graph_name,
            "trigger_call_id": task_id,
        }
        if agent and (call_id := self.messages.calls.get(task_id)):
            told["cause"] = {"type": "toolCall", "tool_call_id": call_id}
        self.subgraphs[namespace] = Subgraph(graph_name, task_id)
        self.emit(self._lifecycle(namespace, told))
        self._remember_call(data)

    def _remember_call(self, data: Mapping[str, Any]) -> None:
        """A task that executes a tool call may start a nested graph: its cause."""
        given = data.get("input")
        call = given.get("tool_call") if isinstance(given, Mapping) else None
        if isinstance(call, Mapping) and isinstance(call.get("id"), str):
            self.messages.calls[data["id"]] = call["id"]

    def _end_of(self, namespace: Namespace, event: str, error: str | None) -> Draft:
        told = {"event": event, "graph_name": self.subgraphs.pop(namespace).graph_name}
        return self._lifecycle(namespace, told if error is None else {**told, "error": error})

    def _message(self, namespace: Namespace, payload: Any, about: Mapping[str, Any]) -> None:
        for shown in self.messages.add(payload, about):
            self.emit(Draft("messages", namespace, encode_json(shown)))

    def _tool(self, namespace: Namespace, data: Mapping[str, Any]) -> None:
        if data.get("event") == "tool-error":
            # A text of which nobody knows whose eyes it is for; the model gets it as a message.
            data = {**data, "message": TOOL_FAILED}
        self.emit(Draft("tools", namespace, encode_json(data)))
        output, call_id = data.get("output"), data.get("tool_call_id")
        if not isinstance(output, ToolMessage) or output.tool_call_id != call_id:
            return
        # Who looks at one call reads its result as a message of its own.
        mirrored = output.model_copy(update={"id": f"tool-{call_id}"})
        for shown in events_of_message(mirrored, {}):
            self.emit(Draft("messages", (f"tools:{call_id}",), encode_json(shown)))

    def _note(self, namespace: Namespace, interrupts: Iterable[Any]) -> None:
        for one in interrupts:
            interrupt_id = one.get("id") if isinstance(one, Mapping) else getattr(one, "id", None)
            if isinstance(interrupt_id, str):
                self.asked.setdefault(interrupt_id, namespace)

    def _question(self, interrupt_id: str, value: Any) -> Draft:
        namespace = self.asked.get(interrupt_id, ())
        # `value` is what the Python client reads.
        told = {"interrupt_id": interrupt_id, "payload": value, "value": value}
        event_id = f"synth:{self.run_id}:input|{'|'.join(namespace)}|{interrupt_id}"
        return Draft("input.requested", namespace, encode_json(told), event_id)

    def _lifecycle(self, namespace: Namespace, told: Mapping[str, Any]) -> Draft:
        # Clients read the run's id out of the event's.
        event_id = f"synth:{self.run_id}:lc|{'|'.join(namespace)}|{told['event']}"
        return Draft("lifecycle", namespace, encode_json(told), event_id)


@dataclass(frozen=True, slots=True)
class Subgraph:
    """A nested graph that has started."""

    graph_name: str
    task_id: str
    """The task of the parent that runs it."""


class Messages:
    """Gives every event of a message its id, so that messages of parallel models stay apart."""

    def __init__(self) -> None:
        self.open: dict[str, str] = {}
        """Ids of messages by the run of their model."""
        self.calls: dict[str, str] = {}
        """Ids of tool calls by the task that executes them."""

    def add(self, payload: Any, about: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """The events that a part of the `messages` mode brings."""
        if isinstance(payload, Mapping) and "event" in payload:
            return [self._stamp(dict(payload), about)]
        if isinstance(payload, BaseMessage) and not isinstance(payload, BaseMessageChunk):
            message_id = payload.id
            shown = events_of_message(payload, visible_about(about))
            return [{**event, "id": message_id} for event in shown]
        return []

    def _stamp(self, event: dict[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
        model_run = str(about.get("run_id"))
        if event["event"] == "message-start":
            message_id = event.pop("message_id", None) or event.get("id") or model_run
            self.open[model_run] = str(message_id)
            event["metadata"] = {**visible_about(about), **(event.get("metadata") or {})}
        if (message_id := self.open.get(model_run)) is not None:
            event["id"] = message_id
        if event["event"] in {"message-finish", "error"}:
            self.open.pop(model_run, None)
        return event


def visible_about(about: Mapping[str, Any]) -> dict[str, Any]:
    """What readers want to know of a message's origin."""
    shown = {name: about[key] for key, name in PROVIDER_KEYS.items() if about.get(key)}
    if node := about.get("langgraph_node"):
        shown["langgraph_node"] = node
    return shown
