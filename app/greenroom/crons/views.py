"""HTTP of crons (http.md, section 5)."""

from uuid import UUID

from flask import Blueprint

from greenroom.auth.questions import CREATE_CRON, SEARCH_CRONS, UPDATE_CRON, ask
from greenroom.contract.endpoint import Reply, endpoint
from greenroom.contract.fields import Object
from greenroom.contract.guard import caller, scope
from greenroom.contract.services import services
from greenroom.crons import service
from greenroom.crons.schemas import Cron, CronCount, CronCreate, CronPatch, CronSearch

crons = Blueprint("crons", __name__)

READ = ask("crons", "read")
DELETE = ask("crons", "delete")


@crons.post("/runs/crons")
@endpoint(access=CREATE_CRON, body=CronCreate, returns=Cron)
def create_cron(body: CronCreate) -> Object:
    """Create a cron whose runs each make a thread of their own."""
    return service.create(services().database, services().config.project, body, None, caller())


@crons.post("/threads/<thread_id>/runs/crons")
@endpoint(access=CREATE_CRON, body=CronCreate, returns=Cron)
def create_thread_cron(thread_id: UUID, body: CronCreate) -> Object:
    """Create a cron whose runs follow one another on a thread."""
    return service.create(services().database, services().config.project, body, thread_id, caller())


@crons.get("/runs/crons/<cron_id>")
@endpoint(access=READ, returns=Cron)
def get_cron(cron_id: UUID) -> Object:
    """Get a cron."""
    return service.get(services().database, cron_id, scope("crons"))


@crons.patch("/runs/crons/<cron_id>")
@endpoint(access=UPDATE_CRON, body=CronPatch, returns=Cron)
def patch_cron(cron_id: UUID, body: CronPatch) -> Object:
    """Change a cron, or switch it off and on."""
    found = services()
    return service.patch(found.database, found.config.project, cron_id, body, scope("crons"))


@crons.delete("/runs/crons/<cron_id>")
@endpoint(access=DELETE, status=204)
def delete_cron(cron_id: UUID) -> None:
    """Delete a cron; the runs that it has started stay."""
    service.delete(services().database, cron_id, scope("crons"))


@crons.post("/runs/crons/search")
@endpoint(access=SEARCH_CRONS, body=CronSearch, returns=list[Cron])
def search_crons(body: CronSearch) -> Reply:
    """Search crons, newest first unless asked otherwise."""
    found, page = service.search(services().database, body, caller())
    return Reply(found, headers=page.headers)


@crons.post("/runs/crons/count")
@endpoint(access=SEARCH_CRONS, body=CronCount, returns=int)
def count_crons(body: CronCount) -> int:
    """Count crons."""
    return service.count(services().database, body, caller())
