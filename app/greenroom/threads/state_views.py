"""HTTP of a thread's state and history (http.md, section 2, state)."""

from uuid import UUID

from flask import Blueprint

from greenroom import wire
from greenroom.auth.questions import READ_THREAD, ask
from greenroom.contract.endpoint import Reply, endpoint
from greenroom.contract.fields import Object
from greenroom.contract.guard import caller
from greenroom.contract.services import services
from greenroom.threads import state_service
from greenroom.threads.schemas import (
    HistoryQuery,
    HistorySearch,
    StateAtCheckpoint,
    StateQuery,
    StateUpdate,
    StateUpdated,
    ThreadState,
)

states = Blueprint("states", __name__)

UPDATE_STATE = ask("threads", "update", metadata={}, action=None) + READ_THREAD


@states.get("/threads/<thread_id>/state")
@endpoint(access=READ_THREAD, query=StateQuery, returns=ThreadState)
def get_state(thread_id: UUID, query: StateQuery) -> Reply:
    """Get a thread's newest state."""
    found = services()
    return Reply(
        state_service.read(
            found.database,
            found.graphs,
            found.config.project,
            thread_id,
            subgraphs=query.subgraphs,
            caller=caller(),
        )
    )


@states.get("/threads/<thread_id>/state/<checkpoint_id>")
@endpoint(access=READ_THREAD, query=StateQuery, returns=ThreadState)
def get_state_at_checkpoint_id(thread_id: UUID, checkpoint_id: str, query: StateQuery) -> Reply:
    """Get a thread's state at a checkpoint; an empty one when there is no such checkpoint."""
    found = services()
    return Reply(
        state_service.read(
            found.database,
            found.graphs,
            found.config.project,
            thread_id,
            # A path may hold a NUL, which Postgres refuses.
            checkpoint={"checkpoint_id": wire.clean(checkpoint_id)},
            subgraphs=query.subgraphs,
            caller=caller(),
        )
    )


@states.post("/threads/<thread_id>/state/checkpoint")
@endpoint(access=READ_THREAD, body=StateAtCheckpoint, returns=ThreadState)
def get_state_at_checkpoint(thread_id: UUID, body: StateAtCheckpoint) -> Reply:
    """Get a thread's state at a checkpoint, which may be that of a nested graph."""
    found = services()
    return Reply(
        state_service.read(
            found.database,
            found.graphs,
            found.config.project,
            thread_id,
            checkpoint=body.checkpoint.model_dump(exclude_none=True),
            subgraphs=body.subgraphs,
            caller=caller(),
        )
    )


@states.post("/threads/<thread_id>/state")
@endpoint(access=UPDATE_STATE, body=StateUpdate, returns=StateUpdated)
def update_state(thread_id: UUID, body: StateUpdate) -> Object:
    """Write a checkpoint as if a node had returned the values."""
    found = services()
    return state_service.update(
        found.database, found.graphs, found.signals, thread_id, body, caller()
    )


@states.get("/threads/<thread_id>/history")
@endpoint(access=READ_THREAD, query=HistoryQuery, returns=list[ThreadState])
def list_history(thread_id: UUID, query: HistoryQuery) -> Reply:
    """List a thread's states, newest first."""
    search = HistorySearch(limit=query.limit, before=wire.clean(query.before))
    found = services()
    shown = state_service.read_history(found.database, found.graphs, thread_id, search, caller())
    return Reply(shown)


@states.post("/threads/<thread_id>/history")
@endpoint(access=READ_THREAD, body=HistorySearch, returns=list[ThreadState])
def search_history(thread_id: UUID, body: HistorySearch) -> Reply:
    """List those of a thread's states that match, newest first."""
    found = services()
    return Reply(
        state_service.read_history(found.database, found.graphs, thread_id, body, caller())
    )
