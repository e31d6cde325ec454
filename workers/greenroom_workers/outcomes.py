"""How a run ended, in the words of the wire."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langgraph.pregel import Pregel
from langgraph.types import StateSnapshot

from greenroom.graphs.encoding import encode_json
from greenroom.graphs.state import without_values
from greenroom.queue import outbox
from greenroom.queue.life import Claim, Outcome
from greenroom.queue.states import CancelAction, RunStatus

# Their texts are written for whoever called; those of other classes may hold anything (SQL, paths,
# addresses) and stay in the log (observed.md, section 5, error of a run).
TOLD = (ValueError, TypeError, KeyError, RuntimeError, AttributeError, TimeoutError)
TOLD_MODULES = ("langgraph.", "greenroom.")
HIDDEN_MESSAGE = "An internal error occurred"

LARGEST_ANSWER_BYTES = 16 * 1024
"""What goes with the news of an end to all who read the thread, whether they wait for it or not."""

SERVER_KEYS = frozenset(
    {
        "run_id",
        "thread_id",
        "graph_id",
        "assistant_id",
        "user_id",
        "langgraph_auth_user",
        "langgraph_auth_user_id",
        "langgraph_auth_permissions",
        "langgraph_request_id",
    }
)


def describe_error(error: BaseException) -> dict[str, str]:
    """The class of an error, always true, and its text where that is meant for clients."""
    kind = type(error)
    is_told = isinstance(error, TOLD) or kind.__module__.startswith(TOLD_MODULES)
    return {"error": kind.__name__, "message": str(error) if is_told else HIDDEN_MESSAGE}


def describe_cancel(claim: Claim, action: CancelAction) -> dict[str, str]:
    """What the thread says about a cancelled run."""
    return outbox.describe_cancel(claim.lease.thread_id, claim.lease.run_id, action)


def outcome_of(
    claim: Claim,
    graph: Pregel[Any, Any, Any, Any] | None,
    snapshot: StateSnapshot | None,
    *,
    status: RunStatus,
    error: dict[str, str] | None = None,
) -> Outcome:
    """Describe an end.

    Args:
        snapshot: the state that the run left; None when it could not be read, or there is none.
        error: of a run that is `error` or `timeout`; the thread shows it too.
    """
    has_state = snapshot is not None and snapshot.created_at is not None
    if error is not None:
        thread_status = "error"
    elif has_state and snapshot is not None and snapshot.next:
        thread_status = "interrupted"
    else:
        thread_status = "idle"
    outcome = Outcome(
        status=status,
        thread_status=thread_status,
        error=error,
        thread_error=error,
        config=encode_json(visible_config(claim.kwargs["config"])),
    )
    if snapshot is None or not has_state:
        return outcome
    return _with_state(outcome, graph, snapshot)


def _with_state(
    outcome: Outcome, graph: Pregel[Any, Any, Any, Any] | None, snapshot: StateSnapshot
) -> Outcome:
    waiting = {task.id: task.interrupts for task in snapshot.tasks if task.interrupts}
    shown = {
        task_id: [{"id": one.id, "value": one.value} for one in interrupts]
        for task_id, interrupts in waiting.items()
    }
    output = output_of(graph, snapshot.values)
    asked = [one for interrupts in waiting.values() for one in interrupts]
    if asked and (output is None or isinstance(output, Mapping)):
        output = {
            **(output or {}),
            "__interrupt__": [
                {"value": one.value, "id": one.id, "response_schema": None} for one in asked
            ],
        }
    return replace(
        outcome,
        values=encode_json(snapshot.values),
        output=None if output is snapshot.values else encode_json(output),
        interrupts=encode_json(shown),
        snapshot=encode_json(without_values(snapshot)),
    )


def output_of(graph: Pregel[Any, Any, Any, Any] | None, values: Any) -> Any:
    """The part of the state that the graph's output schema shows; the values themselves if all."""
    if graph is None or not isinstance(values, Mapping):
        return values
    channels = graph.output_channels
    if isinstance(channels, str) or set(values) <= set(channels):
        return values
    return {key: value for key, value in values.items() if key in channels}


def answer_of(outcome: Outcome) -> bytes:
    """What `wait` answers, as `runs.service.answer` reads it; empty where it has to be read."""
    if outcome.status in {RunStatus.ERROR, RunStatus.TIMEOUT}:
        return b""
    body = (outcome.output if outcome.output is not None else outcome.values) or b""
    return body if len(body) <= LARGEST_ANSWER_BYTES else b""


def visible_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config as its thread shows it: without what the server put there."""
    configurable = {
        key: value
        for key, value in (config.get("configurable") or {}).items()
        if key not in SERVER_KEYS
    }
    kept = {key: value for key, value in config.items() if key != "metadata"}
    return {**kept, "configurable": configurable}


def interrupted(claim: Claim, outcome: Outcome) -> Outcome:
    """An end that somebody cancelled before it was written: the wish came first, and wins."""
    return Outcome(
        status=RunStatus.INTERRUPTED,
        thread_status="idle" if outcome.thread_status == "error" else outcome.thread_status,
        thread_error=describe_cancel(claim, CancelAction.INTERRUPT),
        values=outcome.values,
        output=outcome.output,
        interrupts=outcome.interrupts,
        config=outcome.config,
        snapshot=outcome.snapshot,
    )
