"""The rules of a thread's state: read and updated in the graphs process, which has the graphs.

No database session is held while that process works. Reading needs no lock: a checkpoint never
changes. Writing takes the thread's slot for the time of the call (`slot`), so that a run that is
created meanwhile starts from what the update left.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from greenroom import wire
from greenroom.auth.caller import ANYONE, Caller
from greenroom.config import Project
from greenroom.database.engine import Database
from greenroom.database.scope import Scope
from greenroom.encryption import Readable, unseal, unseal_maybe
from greenroom.errors import AppError, BadRequest, ThreadNotFound
from greenroom.graphs.client import GraphsClient
from greenroom.identifiers import new_id
from greenroom.logs import get_logger
from greenroom.signals.sender import Signals
from greenroom.streaming.frames import Batch, EventId, Kind, make_frame, pack
from greenroom.threads import queries, service
from greenroom.threads.schemas import HistorySearch, StateUpdate, Superstep, ThreadCreate
from greenroom.threads.slot import give_back, take_slot

log = get_logger(__name__)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a thread's state lives."""

    thread_id: UUID
    graph_id: str | None
    """None: nothing has run, and the metadata name no graph."""
    config: Json
    """For factories: the assistant's, and over it that of the last run."""


def read(
    database: Database,
    graphs: GraphsClient,
    project: Project,
    thread_id: UUID,
    *,
    checkpoint: Mapping[str, Any] | None = None,
    subgraphs: bool = False,
    caller: Caller = ANYONE,
) -> bytes:
    """Read the newest state, or that at a checkpoint, as JSON.

    Unknown checkpoints give the empty state, which echoes their id.

    Raises:
        ThreadNotFound: no such thread.
        GraphNotFound: langgraph.json no longer has the thread's graph.
    """
    if checkpoint is None and not subgraphs:
        resting = read_resting(database, project, thread_id, caller.scope("threads"))
        if resting is not None:
            return resting
    address = find_address(database, thread_id, caller)
    if address.graph_id is None:
        return wire.dumps(_empty_state(thread_id, checkpoint))
    return graphs.read_state(
        address.graph_id,
        thread_id,
        config=address.config,
        checkpoint=checkpoint,
        subgraphs=subgraphs,
    )


def read_resting(
    database: Database, project: Project, thread_id: UUID, scope: Scope = None
) -> bytes | None:
    """The newest state as the last run left it; None where only the graph can tell.

    Raises:
        ThreadNotFound: no such thread.
    """
    with database.direct() as connection:
        row = queries.find_resting_state(connection, thread_id, scope)
        if row is None:
            raise ThreadNotFound(thread_id)
        if row.snapshot is None or row.values is None or row.graph_id not in project.graphs:
            return None
        return b'{"values":%b,%b' % (unseal(row.values), unseal(row.snapshot)[1:])


def read_history(
    database: Database,
    graphs: GraphsClient,
    thread_id: UUID,
    search: HistorySearch,
    caller: Caller = ANYONE,
) -> bytes:
    """Read states of all branches, newest first, as JSON.

    Raises: as `read`.
    """
    address = find_address(database, thread_id, caller)
    if address.graph_id is None:
        return b"[]"
    checkpoint = search.checkpoint.model_dump(exclude_none=True) if search.checkpoint else None
    return graphs.read_history(
        address.graph_id,
        thread_id,
        config=address.config,
        limit=search.limit,
        before=search.before_id,
        metadata=search.metadata,
        checkpoint=checkpoint,
    )


def update(
    database: Database,
    graphs: GraphsClient,
    signals: Signals,
    thread_id: UUID,
    body: StateUpdate,
    caller: Caller = ANYONE,
) -> Json:
    """Write a checkpoint as if a node had returned the values.

    Returns:
        The pointer to it, in the three forms that clients know.
    Raises:
        ThreadNotFound: no such thread.
        BadRequest: the thread has no graph yet, or the graph refuses the update.
        Conflict: a run is pending or running.
    """
    address = find_address(database, thread_id, caller)

    def write(graph_id: str) -> Json:
        return graphs.update_state(
            graph_id,
            thread_id,
            config=address.config,
            values=body.values,
            as_node=body.as_node,
            checkpoint=body.target,
        )

    pointer = _write(database, signals, address, write, caller.scope("threads"))
    _announce(graphs, signals, address)
    return pointer


def _announce(graphs: GraphsClient, signals: Signals, address: Address) -> None:
    """Show the new state to those who stream the thread, if there are any."""
    if address.graph_id is None or not signals.has_listeners(address.thread_id):
        return
    try:
        state = graphs.read_state(address.graph_id, address.thread_id, config=address.config)
    except AppError as error:
        log.warning("update not announced", thread_id=str(address.thread_id), error=repr(error))
        return
    data = b'{"state":%b,"thread_id":"%b"}' % (state, str(address.thread_id).encode())
    # It belongs to no run: an id of its own keeps it apart in the order of the thread's events.
    milliseconds = time.time_ns() // 1_000_000
    frame = make_frame("state_update", data, EventId(milliseconds, 0))
    batch = Batch(Kind.STATE, new_id(), 0, milliseconds, 0, 1, frame)
    signals.publish(address.thread_id, pack(batch))


def create_with_history(
    database: Database,
    graphs: GraphsClient,
    signals: Signals,
    body: ThreadCreate,
    default_ttl: queries.Ttl | None = None,
    caller: Caller = ANYONE,
) -> Json:
    """Make a thread and write its supersteps; a thread that was there already stays as it is.

    Raises:
        BadRequest: the metadata name no graph, or the graph refuses a superstep: there is no
            thread then.
        Conflict: the id is taken, and the request does not take what is there.
    """
    if body.supersteps and not body.metadata.get("graph_id"):
        raise BadRequest("supersteps need the graph: set metadata.graph_id to its id")
    made, is_new = service.create(database, body, default_ttl, caller.scope("threads"))
    if not (body.supersteps and is_new):
        return made
    thread_id: UUID = made["thread_id"]
    try:
        _write_supersteps(database, graphs, signals, thread_id, body.supersteps, caller)
    except BaseException:
        service.delete(database, thread_id)
        raise
    return service.get(database, thread_id)


def find_address(database: Database, thread_id: UUID, caller: Caller = ANYONE) -> Address:
    """Find a thread's graph, and the config that shapes it.

    Raises:
        ThreadNotFound: no such thread.
    """
    with database.direct() as connection:
        row = queries.find_address(connection, thread_id, caller.scope("threads"))
    if row is None:
        raise ThreadNotFound(thread_id)
    config = _merge(_config(row.assistant_config), _config(row.state_config))
    if caller.user is not None:
        config["configurable"] |= caller.configurable()
    return Address(thread_id, row.graph_id or None, config)


def _config(stored: Readable | None) -> Json:
    config: Json = wire.loads(unseal_maybe(stored) or b"{}")
    return config


def _write_supersteps(
    database: Database,
    graphs: GraphsClient,
    signals: Signals,
    thread_id: UUID,
    supersteps: Sequence[Superstep],
    caller: Caller,
) -> None:
    # Its own thread, that nobody else knows of yet: what it may see plays no part.
    address = find_address(database, thread_id, replace(caller, filters={}))
    steps = [step.model_dump(exclude_unset=True) for step in supersteps]
    _write(
        database,
        signals,
        address,
        lambda graph_id: graphs.apply_supersteps(graph_id, thread_id, steps, config=address.config),
    )


def _write(
    database: Database,
    signals: Signals,
    address: Address,
    write: Callable[[str], Json],
    scope: Scope = None,
) -> Json:
    """Call the graphs process under the thread's slot, and show what it left on the thread."""
    if address.graph_id is None:
        raise BadRequest(
            f"Thread '{address.thread_id}' has no assigned graph ID. This usually occurs when no "
            "runs have been made on this particular thread. Set metadata.graph_id to a graph's "
            "id, or make a run first."
        )
    slot = take_slot(database, address.thread_id, address.graph_id, scope)
    left: Json | None = None
    answer: Json = {}
    try:
        written = write(address.graph_id)
        answer, left = written["update"], written["thread"]
    finally:
        if give_back(database, slot, left):
            signals.ring()
    return answer


def _merge(below: Json, above: Json) -> Json:
    configurable = {**(below.get("configurable") or {}), **(above.get("configurable") or {})}
    return {**below, **above, "configurable": configurable}


def _empty_state(thread_id: UUID, checkpoint: Mapping[str, Any] | None) -> Json:
    checkpoint_id = (checkpoint or {}).get("checkpoint_id")
    pointer = {
        "thread_id": thread_id,
        "checkpoint_ns": (checkpoint or {}).get("checkpoint_ns", ""),
        "checkpoint_id": checkpoint_id,
    }
    return {
        "values": {},
        "next": [],
        "tasks": [],
        "metadata": None,
        "created_at": None,
        "checkpoint": pointer if checkpoint_id else None,
        "parent_checkpoint": None,
        "interrupts": [],
        "checkpoint_id": checkpoint_id,
        "parent_checkpoint_id": None,
    }
