"""The owner's priority handler (langgraph-json.md, 7): a `langgraph_sdk.Priority`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langgraph_sdk.priority import Priority
from langgraph_sdk.priority.types import PriorityContext

from greenroom.config import Config
from greenroom.errors import ConfigError, GraphFault
from greenroom.graphs.client import GraphTimeout
from greenroom.graphs.registry import load_attribute
from greenroom.graphs.users import AuthUser
from greenroom.logs import get_logger
from greenroom.runs.priority import read_path

log = get_logger(__name__)

LOWEST, HIGHEST = -5, 5
LONGEST_GROUP = 256
DEFAULT_GROUP = "default"


class PriorityHandler:
    """One `Priority` object. `seconds` is how long its handler may take."""

    def __init__(self, priority: Priority, seconds: float) -> None:
        assign = priority._assign_handler
        if assign is None:
            raise ConfigError("priority.path: the Priority object has no @priority.assign handler")
        self._assign: Callable[[PriorityContext], Awaitable[Any]] = assign
        self._seconds = seconds

    async def assign(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a thread's settings.

        Args:
            fields: those of `PriorityContext`.
        Returns:
            `{"priority": -5..5, "fairness_group": str}`, with the defaults for what is left out.
        Raises:
            GraphFault: the handler raised, or answered something else.
            GraphTimeout: it took too long.
        """
        context = PriorityContext(**{**fields, "user": AuthUser(fields["user"])})
        about = {"thread_id": fields["thread_id"], "graph_id": fields["graph_id"]}
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._assign(context)
        except TimeoutError as error:
            log.error("priority handler hangs", **about, seconds=self._seconds)  # noqa: TRY400
            raise GraphTimeout("The priority handler takes too long") from error
        except (Exception, SystemExit) as error:  # the owner's code may raise anything
            log.exception("priority handler raised", **about)
            raise GraphFault(f"The priority handler raised {type(error).__name__}") from error
        try:
            return read_answer(answer)
        except (TypeError, ValueError) as error:
            log.error("priority handler answered nonsense", **about, error=str(error))  # noqa: TRY400
            raise GraphFault(f"The priority handler's answer is not valid: {error}") from error


def read_answer(answer: Any) -> dict[str, Any]:
    """A handler's answer, whole.

    Raises:
        TypeError: a field is something else.
        ValueError: a field is out of range.
    """
    if answer is None:
        answer = {}
    if not isinstance(answer, Mapping):
        raise TypeError(f"a {type(answer).__name__} is not a mapping")
    priority = answer.get("priority")
    priority = 0 if priority is None else priority
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise TypeError("priority must be an integer")
    if not LOWEST <= priority <= HIGHEST:
        raise ValueError(f"priority must be between {LOWEST} and {HIGHEST}")
    group = answer.get("fairness_group") or DEFAULT_GROUP
    if not isinstance(group, str):
        raise TypeError("fairness_group must be a string")
    if len(group) > LONGEST_GROUP or "\x00" in group:
        raise ValueError(f"fairness_group must be a string of at most {LONGEST_GROUP} characters")
    return {"priority": priority, "fairness_group": group}


def load_priority(config: Config) -> PriorityHandler | None:
    """The owner's handler; None where langgraph.json names none.

    Raises:
        ConfigError: it cannot be used.
    """
    path = read_path(config.project)
    if path is None:
        return None
    found = load_attribute(config.project, path, "priority.path")
    if not isinstance(found, Priority):
        raise ConfigError(
            f"priority.path: {path} is a {type(found).__name__}, not a langgraph_sdk.Priority"
        )
    return PriorityHandler(found, config.auth_timeout_seconds)
