"""What the streamed answers of runs have in common."""

from collections.abc import Callable
from uuid import UUID

from greenroom.contract.services import Services
from greenroom.errors import AppError, NotFound
from greenroom.logs import get_logger
from greenroom.queue.states import CancelAction
from greenroom.runs import service

log = get_logger(__name__)

JSON_HEADERS = {"content-type": "application/json"}
SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}


def disconnect_action(
    app: Services, thread_id: UUID, run_id: UUID, *, wanted: bool
) -> Callable[[], None] | None:
    """What to do when the client leaves: cancel the run, if it asked for that."""

    def cancel() -> None:
        try:
            service.cancel(app.database, app.signals, thread_id, [run_id], CancelAction.INTERRUPT)
        except NotFound:
            log.debug("client left after the end", run_id=run_id, thread_id=thread_id)
        except AppError:
            log.exception(
                "run not cancelled for a client that left",
                run_id=run_id,
                thread_id=thread_id,
            )

    return cancel if wanted else None
