"""HTTP of threads (http.md, section 2); their state is in `state_views`."""

from uuid import UUID

from flask import Blueprint, request

from greenroom.auth.questions import READ_THREAD, UPDATE_THREAD, ask
from greenroom.contract.endpoint import Reply, endpoint
from greenroom.contract.fields import Object
from greenroom.contract.guard import caller, scope
from greenroom.contract.services import services
from greenroom.threads import service, state_service
from greenroom.threads.expiry import default_ttl
from greenroom.threads.schemas import (
    Pruned,
    Thread,
    ThreadCount,
    ThreadCreate,
    ThreadPatch,
    ThreadPrune,
    ThreadQuery,
    ThreadSearch,
    ThreadStorage,
)

threads = Blueprint("threads", __name__)

CREATE = ask(
    "threads", "create", "thread_id", "metadata", "if_exists", "ttl", changes=("metadata",)
)
SEARCH = ask(
    "threads",
    "search",
    *("metadata", "values", "status", "limit", "offset", "ids"),
    changes=("metadata",),
    thread_id=None,
)
PRUNE = ask("threads", "delete", "thread_ids", thread_id=None)
DELETE = ask("threads", "delete", run_id=None)
COPY = READ_THREAD + ask("threads", "create", metadata={}, if_exists="raise")


@threads.post("/threads")
@endpoint(access=CREATE, body=ThreadCreate, returns=Thread)
def create_thread(body: ThreadCreate) -> Object:
    """Create a thread."""
    found = services()
    return state_service.create_with_history(
        found.database,
        found.graphs,
        found.signals,
        body,
        default_ttl(found.config.project),
        caller(),
    )


@threads.post("/threads/search")
@endpoint(access=SEARCH, body=ThreadSearch, returns=list[Thread])
def search_threads(body: ThreadSearch) -> Reply:
    """Search threads, newest first unless asked otherwise."""
    found, page = service.search(services().database, body, scope("threads"))
    return Reply(found, headers=page.headers)


@threads.post("/threads/count")
@endpoint(access=SEARCH, body=ThreadCount, returns=int)
def count_threads(body: ThreadCount) -> int:
    """Count threads."""
    return service.count(services().database, body, scope("threads"))


@threads.post("/threads/prune")
@endpoint(access=PRUNE, body=ThreadPrune, returns=Pruned)
def prune_threads(body: ThreadPrune) -> Object:
    """Delete threads, or reduce them to their newest checkpoint."""
    count, running = service.prune(services().database, body, scope("threads"))
    services().signals.cancel(running, "delete")
    return {"pruned_count": count}


@threads.get("/threads/<thread_id>")
@endpoint(access=READ_THREAD, query=ThreadQuery, returns=Thread)
def get_thread(thread_id: UUID, query: ThreadQuery) -> Object:
    """Get a thread."""
    shown = {name.strip() for name in query.include.split(",")}
    database = services().database
    return service.get(database, thread_id, scope("threads"), with_ttl="ttl" in shown)


@threads.patch("/threads/<thread_id>")
@endpoint(
    access=UPDATE_THREAD,
    body=ThreadPatch,
    returns=Thread,
    also=(204,),
    headers={"Prefer": "`return=minimal` asks for an answer without a body."},
)
def patch_thread(thread_id: UUID, body: ThreadPatch) -> Reply:
    """Merge a thread's metadata; `Prefer: return=minimal` answers without a body."""
    patched = service.patch(services().database, thread_id, body, scope("threads"))
    if "return=minimal" in request.headers.get("prefer", "").replace(" ", "").lower():
        return Reply(status=204)
    return Reply(patched)


@threads.delete("/threads/<thread_id>")
@endpoint(access=DELETE, status=204)
def delete_thread(thread_id: UUID) -> None:
    """Delete a thread and all that is its own, also while it is busy."""
    running = service.delete(services().database, thread_id, scope("threads"))
    services().signals.cancel(running, "delete")


@threads.post("/threads/<thread_id>/copy")
@endpoint(access=COPY, returns=Thread)
def copy_thread(thread_id: UUID) -> Object:
    """Copy a thread with its history, without its runs."""
    asked = caller().values.get(("threads", "create"), {})
    return service.copy(services().database, thread_id, asked.get("metadata"), scope("threads"))


@threads.get("/threads/<thread_id>/storage")
@endpoint(access=READ_THREAD, returns=ThreadStorage)
def get_thread_storage(thread_id: UUID) -> Object:
    """Tell how much is kept about a thread."""
    return service.read_storage(services().database, thread_id, scope("threads"))
