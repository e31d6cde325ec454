"""The owner's priority handler where no request brings the run: crons fire in workers."""

from collections.abc import Callable, Mapping
from typing import Any

from greenroom.config import Config
from greenroom.database.engine import Database
from greenroom.graphs.apart import call_apart
from greenroom.graphs.priority_handler import PriorityHandler, load_priority
from greenroom.runs.priority import Priorities


def ask_apart(handler: PriorityHandler, seconds: float) -> Callable[[Mapping[str, Any]], Any]:
    """Let the handler run on a thread of its own, so that what it blocks is not ours.

    Args:
        seconds: the handler's own limit.
    """

    def ask(fields: Mapping[str, Any]) -> Any:
        return call_apart(lambda: handler.assign(fields), seconds, "The priority handler")

    return ask


def make_cron_priorities(config: Config, database: Database) -> Priorities | None:
    """Who is asked about the order of the runs of crons; None: nobody.

    Raises:
        ConfigError: what langgraph.json names cannot be used.
    """
    handler = load_priority(config)
    if handler is None:
        return None
    return Priorities(database, ask_apart(handler, config.auth_timeout_seconds))
