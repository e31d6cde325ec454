"""The owner's coroutines, called from threads that must not be theirs."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from greenroom.errors import AppError, GraphFault
from greenroom.graphs.client import GraphTimeout

T = TypeVar("T")

EXTRA_SECONDS = 1.0
"""The handler's own limit comes first, unless it blocks."""


def call_apart(call: Callable[[], Coroutine[Any, Any, T]], seconds: float, subject: str) -> T:
    """Run a coroutine on a thread and a loop of its own, so that what it blocks is not ours.

    Args:
        seconds: the coroutine's own limit.
        subject: whose code it is, for the sentences.
    Raises:
        AppError: as the coroutine does.
        GraphFault: it ended its thread otherwise.
        GraphTimeout: it took too long; its thread is left alone.
    """
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(asyncio.run(call()))
        except AppError as error:
            answer.set_exception(error)
        except BaseException as error:  # noqa: BLE001 (the end of a thread of the owner's code)
            answer.set_exception(GraphFault(f"{subject} raised {error!r}"))

    threading.Thread(target=work, name="handler", daemon=True).start()
    try:
        return answer.result(seconds + EXTRA_SECONDS)
    except TimeoutError as error:
        raise GraphTimeout(f"{subject} takes too long") from error
