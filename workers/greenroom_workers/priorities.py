"""The owner's priority handler where no request brings the run: crons fire in workers."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from greenroom.config import Config
from greenroom.database.engine import Database
from greenroom.errors import AppError, GraphFault
from greenroom.graphs.client import GraphTimeout
from greenroom.graphs.priority_handler import PriorityHandler, load_priority
from greenroom.runs.priority import Priorities

EXTRA_SECONDS = 1.0
"""The handler's own limit comes first, unless it blocks."""


def ask_apart(handler: PriorityHandler, seconds: float) -> Callable[[Mapping[str, Any]], Any]:
    """Let the handler run on a thread of its own, so that what it blocks is not ours.

    Args:
        seconds: the handler's own limit.
    """

    def ask(fields: Mapping[str, Any]) -> Any:
        answer: Future[Any] = Future()

        def call() -> None:
            try:
                answer.set_result(asyncio.run(handler.assign(fields)))
            except AppError as error:
                answer.set_exception(error)
            except BaseException as error:  # noqa: BLE001 (the end of a thread of the owner's code)
                answer.set_exception(GraphFault(f"The priority handler raised {error!r}"))

        threading.Thread(target=call, name="priority", daemon=True).start()
        try:
            return answer.result(seconds + EXTRA_SECONDS)
        except TimeoutError as error:
            raise GraphTimeout("The priority handler takes too long") from error

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
