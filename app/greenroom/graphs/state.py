"""A thread's state as the wire shows it: read, history, update (http.md, section 2)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.constants import END
from langgraph.errors import InvalidUpdateError
from langgraph.pregel import Pregel
from langgraph.types import Command, Interrupt, PregelTask, Send, StateSnapshot, StateUpdate

from greenroom.encryption import searchable
from greenroom.errors import BadRequest
from greenroom.graphs.factories import run_in_thread

Graph = Pregel[Any, Any, Any, Any]
Json = dict[str, Any]

POINTER_KEYS = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")
"""What names a checkpoint: the keys of `configurable` that a client may see and send."""


async def read_state(
    graph: Graph,
    thread_id: str,
    config: RunnableConfig | None = None,
    *,
    checkpoint: Mapping[str, Any] | None = None,
    subgraphs: bool = False,
) -> Json:
    """Read the newest state, or that at `checkpoint`.

    Args:
        config: the thread's own, without its checkpoint keys; for graphs that read `configurable`.
        checkpoint: any of `checkpoint_id`, `checkpoint_ns`, `checkpoint_map`; a namespace such as
            `writer:<task id>` reads a nested graph. None reads the newest root state.
        subgraphs: nest the states of pending nested graphs into their tasks.
    Returns:
        The wire's state; the empty one, which echoes the id, where no such checkpoint exists.
        Values are the graph's objects: encode with `encoding.encode_json`.
    """
    target = _pointing_at(config, thread_id, checkpoint)
    return _state(await graph.aget_state(target, subgraphs=subgraphs))


async def read_history(
    graph: Graph,
    thread_id: str,
    config: RunnableConfig | None = None,
    *,
    limit: int = 1,
    before: str | Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> list[Json]:
    """Read up to `limit` states of all branches, newest first.

    Args:
        before: only older ones: an id, `{"checkpoint_id"}` or `{"configurable": {...}}`.
        metadata: only those whose metadata contain it.
        checkpoint: `checkpoint_ns` for a nested graph's history; a `checkpoint_id` leaves that one.
    Raises:
        NotSearchable: what the metadata shall contain is encrypted.
        HandlerFailed: the owner's handler did not say whether it is.
    """
    target = _pointing_at(config, thread_id, checkpoint)
    # In a thread: it may wait for the owner's handler.
    wanted = dict(await run_in_thread(searchable, metadata)) if metadata else None
    snapshots: AsyncIterator[StateSnapshot] = graph.aget_state_history(
        target, filter=wanted, before=_before(before), limit=limit
    )
    return [_state(snapshot) async for snapshot in snapshots]


async def update_state(
    graph: Graph,
    thread_id: str,
    config: RunnableConfig | None = None,
    *,
    values: Any = None,
    as_node: str | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> Json:
    """Write one checkpoint as if a node had returned `values`.

    Args:
        as_node: None takes the node that wrote last; `__end__` clears what was due.
        checkpoint: fork from there, or write into a nested graph; None goes on from the newest.
    Returns:
        `{"update": <the wire's answer>, "thread": {"status", "values", "interrupts"}}`, the second
        being what the thread's row must show from now on.
    Raises:
        BadRequest: the node is unknown or ambiguous, or cannot take the values.
    """
    # The graph clears its tasks only for None; an empty update by `__end__` means the same.
    values = None if as_node == END and not values else values
    target = _pointing_at(config, thread_id, checkpoint)
    return await _apply(graph, thread_id, target, [[StateUpdate(values, as_node)]])


async def apply_supersteps(
    graph: Graph,
    thread_id: str,
    config: RunnableConfig | None = None,
    *,
    supersteps: Sequence[Mapping[str, Any]],
) -> Json:
    """Build a thread's history: one checkpoint per superstep.

    Args:
        supersteps: `[{"updates": [{"values", "command", "as_node"}]}]`; a command wins.
    Returns:
        As `update_state`, pointing at the last checkpoint.
    Raises:
        BadRequest: a superstep is empty, or an update names an unknown node.
    """
    steps = [[_update(each) for each in step.get("updates") or ()] for step in supersteps]
    if not steps or not all(steps):
        raise BadRequest("every superstep must hold at least one update")
    return await _apply(graph, thread_id, _pointing_at(config, thread_id, None), steps)


async def _apply(
    graph: Graph, thread_id: str, target: RunnableConfig, steps: Sequence[Sequence[StateUpdate]]
) -> Json:
    _require_namespace(graph, target["configurable"]["checkpoint_ns"])
    with _refused_updates():
        written = await graph.abulk_update_state(target, steps)
    pointer = _pointer(written) or {}
    root = await graph.aget_state(_pointing_at(target, thread_id, None))
    return {
        "update": {
            "checkpoint": pointer,
            "configurable": pointer,
            "checkpoint_id": pointer.get("checkpoint_id"),
        },
        "thread": {
            "status": "interrupted" if root.next else "idle",
            "values": root.values,
            "interrupts": {
                task.id: [_interrupt(each) for each in task.interrupts]
                for task in root.tasks
                if task.interrupts
            },
        },
    }


def _require_namespace(graph: Graph, namespace: str) -> None:
    names = "|".join(
        part.partition(":")[0] for part in namespace.split("|") if part and not part.isdigit()
    )
    if names and not any(graph.get_subgraphs(namespace=names, recurse=True)):
        raise BadRequest(f"Subgraph {names} not found")


@contextmanager
def _refused_updates() -> Any:
    try:
        yield
    except InvalidUpdateError as error:
        raise BadRequest(str(error)) from error


def _update(update: Mapping[str, Any]) -> StateUpdate:
    command = update.get("command")
    values = _command(command) if command else update.get("values")
    return StateUpdate(cast("dict[str, Any] | None", values), update.get("as_node"))


def _command(command: Mapping[str, Any]) -> Command[Any]:
    goto = command.get("goto") or ()
    targets = goto if isinstance(goto, list) else [goto] if goto else []
    return Command(
        update=command.get("update"),
        resume=command.get("resume"),
        goto=[
            Send(each["node"], each.get("input")) if isinstance(each, Mapping) else each
            for each in targets
        ],
    )


def _pointing_at(
    config: RunnableConfig | None, thread_id: str, checkpoint: Mapping[str, Any] | None
) -> RunnableConfig:
    """Aim a config at the thread, whatever it or the checkpoint says about another."""
    given = config or {}
    kept = {
        key: value
        for key, value in (given.get("configurable") or {}).items()
        if key not in POINTER_KEYS
    }
    aim = {
        key: value
        for key, value in (checkpoint or {}).items()
        if key in POINTER_KEYS and value is not None
    }
    configurable = {**kept, "checkpoint_ns": "", **aim, "thread_id": thread_id}
    return cast(RunnableConfig, {**given, "configurable": configurable})


def _before(before: str | Mapping[str, Any] | None) -> RunnableConfig | None:
    if not before:
        return None
    if isinstance(before, str):
        return {"configurable": {"checkpoint_id": before}}
    found = (before.get("configurable") or before).get("checkpoint_id")
    return {"configurable": {"checkpoint_id": found}} if found else None


def _pointer(config: RunnableConfig | None) -> Json | None:
    """The wire's checkpoint; None for a config that names none."""
    configurable = (config or {}).get("configurable") or {}
    if not configurable.get("checkpoint_id"):
        return None
    return {key: configurable[key] for key in POINTER_KEYS if key in configurable}


def _state(snapshot: StateSnapshot) -> Json:
    return {"values": snapshot.values, **without_values(snapshot)}


def without_values(snapshot: StateSnapshot) -> Json:
    """All of the wire's state but `values`, which comes first in it."""
    pointer, parent = _pointer(snapshot.config), _pointer(snapshot.parent_config)
    return {
        "next": list(snapshot.next),
        "tasks": [_task(task) for task in snapshot.tasks],
        # langgraph leaves the thread's id out of the metadata that it stores.
        "metadata": snapshot.metadata
        and {**snapshot.metadata, "thread_id": pointer and pointer["thread_id"]},
        "created_at": snapshot.created_at,
        "checkpoint": pointer,
        "parent_checkpoint": parent,
        "interrupts": [_interrupt(interrupt) for interrupt in snapshot.interrupts],
        "checkpoint_id": pointer["checkpoint_id"] if pointer else None,
        "parent_checkpoint_id": parent["checkpoint_id"] if parent else None,
    }


def _task(task: PregelTask) -> Json:
    nested = task.state if isinstance(task.state, StateSnapshot) else None
    # Unless nested states were asked for, the task tells only where to read its own.
    address = None if nested or not task.state else cast(RunnableConfig, task.state)
    return {
        "id": task.id,
        "name": task.name,
        "path": task.path,
        "error": _error(task.error),
        "interrupts": [_interrupt(interrupt) for interrupt in task.interrupts],
        "checkpoint": _address(address),
        "state": _state(nested) if nested else None,
        "result": task.result,
    }


def _address(config: RunnableConfig | None) -> Json | None:
    if config is None:
        return None
    configurable = config["configurable"]
    return {key: configurable[key] for key in POINTER_KEYS if key in configurable}


def _error(error: Any) -> str | None:
    """The exception's `repr`, which is also the form in which checkpoints hold it."""
    return error if error is None or isinstance(error, str) else repr(error)


def _interrupt(interrupt: Interrupt) -> Json:
    return {"id": interrupt.id, "value": interrupt.value}
