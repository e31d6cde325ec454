"""What a graph is given: its input or command, its config, its context."""

import dataclasses
import typing
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.pregel import Pregel
from langgraph.types import Command, Send

import greenroom
from greenroom.graphs.users import with_user
from greenroom.queue.life import Claim

LANGGRAPH_VERSION = version("langgraph")


def graph_input(kwargs: Mapping[str, Any]) -> Any:
    """The command if there is one, else the input; None goes on from the checkpoint."""
    command = kwargs["command"]
    if not command:
        return kwargs["input"]
    update = command.get("update")
    if isinstance(update, list):
        update = [tuple(pair) if isinstance(pair, list) else pair for pair in update]
    given: dict[str, Any] = {"update": update, "goto": goto_of(command.get("goto"))}
    if command.get("resume") is not None:
        given["resume"] = command["resume"]
    return Command(**given)


def goto_of(goto: Any) -> Any:
    """Node names and `{"node", "input"}` objects, one or a list, as langgraph takes them."""
    if goto is None:
        return ()
    if isinstance(goto, list):
        return [target_of(one) for one in goto]
    return target_of(goto)


def target_of(goto: Any) -> Any:
    """One target.

    Raises:
        ValueError: neither a node's name nor an object with `node`.
    """
    if isinstance(goto, Mapping) and isinstance(goto.get("node"), str):
        return Send(goto["node"], goto.get("input"))
    if not isinstance(goto, str):
        raise ValueError(f"command.goto must name nodes, not {goto!r}")  # noqa: TRY004
    return goto


def graph_config(claim: Claim) -> RunnableConfig:
    """The run's config with what nodes may want to know about the run itself."""
    config = dict(claim.kwargs["config"])
    config["metadata"] = {
        **(config.get("metadata") or {}),
        **claim.metadata,
        "run_id": str(claim.lease.run_id),
        "thread_id": str(claim.lease.thread_id),
        "user_id": (config.get("configurable") or {}).get("user_id") or "",
        "run_attempt": claim.attempt,
        "langgraph_version": LANGGRAPH_VERSION,
        "langgraph_api_version": greenroom.__version__,
    }
    config["run_id"] = claim.lease.run_id
    return with_user(typing.cast("RunnableConfig", config))


def graph_context(graph: Pregel[Any, Any, Any, Any], context: Mapping[str, Any]) -> Any:
    """The context as the graph's schema takes it; None when there is none.

    Context and configurable mirror one another, so that keys of the one that the other's schema
    does not know are left out rather than refused.
    """
    if not context:
        return None
    known = known_fields(graph.context_schema)
    if known is None:
        return dict(context)
    return {key: value for key, value in context.items() if key in known} or None


def known_fields(schema: Any) -> frozenset[str] | None:
    """The names that a context schema declares; None when it takes anything."""
    if dataclasses.is_dataclass(schema):
        return frozenset(field.name for field in dataclasses.fields(schema))
    if fields := getattr(schema, "model_fields", None):
        return frozenset(fields)
    if typing.is_typeddict(schema):
        return frozenset(schema.__annotations__)
    return None


def is_temporary(claim: Claim) -> bool:
    """The run brought a thread along that goes with it."""
    return bool(claim.kwargs["temporary"]) and claim.kwargs["on_completion"] != "keep"
