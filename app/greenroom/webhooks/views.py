"""HTTP for the deliveries of webhooks; our own addition to the contract."""

from typing import Any
from uuid import UUID

from flask import Blueprint

from greenroom.auth.questions import READ_THREAD
from greenroom.contract.endpoint import endpoint
from greenroom.contract.guard import scope
from greenroom.contract.services import services
from greenroom.runs import service as runs
from greenroom.webhooks import service
from greenroom.webhooks.schemas import Delivery

webhooks = Blueprint("webhooks", __name__)


@webhooks.get("/threads/<thread_id>/runs/<run_id>/webhooks")
@endpoint(access=READ_THREAD, returns=list[Delivery])
def list_deliveries(thread_id: UUID, run_id: UUID) -> list[dict[str, Any]]:
    """List the deliveries of a run's webhook, and what became of each."""
    database = services().database
    found = service.list_for_run(database, thread_id, run_id, scope("threads"))
    # A stateless run is gone when it has ended, and with it everything but its deliveries.
    if not any(delivery.pop("is_stateless") for delivery in found):
        runs.get_run(database, thread_id, run_id, scope("threads"))
    return found
