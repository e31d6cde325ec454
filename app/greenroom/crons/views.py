"""HTTP of crons (http.md, section 5)."""

from uuid import UUID

from flask import Blueprint

from greenroom.contract.endpoint import Reply, endpoint
from greenroom.contract.fields import Object
from greenroom.contract.services import services
from greenroom.crons import service
from greenroom.crons.schemas import Cron, CronCount, CronCreate, CronPatch, CronSearch

crons = Blueprint("crons", __name__)


@crons.post("/runs/crons")
@endpoint(body=CronCreate, returns=Cron)
def create_cron(body: CronCreate) -> Object:
    """Create a cron whose runs each make a thread of their own."""
    return service.create(services().database, services().config.project, body, None)


@crons.post("/threads/<thread_id>/runs/crons")
@endpoint(body=CronCreate, returns=Cron)
def create_thread_cron(thread_id: UUID, body: CronCreate) -> Object:
    """Create a cron whose runs follow one another on a thread."""
    return service.create(services().database, services().config.project, body, thread_id)


@crons.get("/runs/crons/<cron_id>")
@endpoint(returns=Cron)
def get_cron(cron_id: UUID) -> Object:
    """Get a cron."""
    return service.get(services().database, cron_id)


@crons.patch("/runs/crons/<cron_id>")
@endpoint(body=CronPatch, returns=Cron)
def patch_cron(cron_id: UUID, body: CronPatch) -> Object:
    """Change a cron, or switch it off and on."""
    return service.patch(services().database, services().config.project, cron_id, body)


@crons.delete("/runs/crons/<cron_id>")
@endpoint(status=204)
def delete_cron(cron_id: UUID) -> None:
    """Delete a cron; the runs that it has started stay."""
    service.delete(services().database, cron_id)


@crons.post("/runs/crons/search")
@endpoint(body=CronSearch, returns=list[Cron])
def search_crons(body: CronSearch) -> Reply:
    """Search crons, newest first unless asked otherwise."""
    found, page = service.search(services().database, body)
    return Reply(found, headers=page.headers)


@crons.post("/runs/crons/count")
@endpoint(body=CronCount, returns=int)
def count_crons(body: CronCount) -> int:
    """Count crons."""
    return service.count(services().database, body)
