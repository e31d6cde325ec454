"""Threads on the wire (http.md, section 2)."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from greenroom.contract.fields import Flag, Id, Limit, Maybe, Object, Offset, QueryModel, WireModel
from greenroom.threads.extract import parse_path

Status = Literal["idle", "busy", "interrupted", "error"]
Strategy = Literal["delete", "keep_latest"]
ThreadField = Literal[
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "config",
    "status",
    "values",
    "interrupts",
]
MAX_TTL_MINUTES = 100 * 366 * 24 * 60


def check_path(path: str) -> str:
    """Refuse a path that cannot be followed."""
    parse_path(path)
    return path


def check_namespace(namespace: str) -> str:
    """Refuse a namespace without a node in it: numbers alone count the calls of a node."""
    if namespace and all(part.isdecimal() for part in namespace.split("|")):
        raise ValueError("checkpoint_ns must name a nested graph")
    return namespace


class Ttl(WireModel):
    """How long a thread lives. Without `ttl` it lives for ever."""

    ttl: Maybe[Annotated[float, Field(gt=0, le=MAX_TTL_MINUTES)]] = None
    """Minutes from now."""
    strategy: Strategy = "delete"


class TtlShown(WireModel):
    """A thread's time to live, as it is shown."""

    strategy: Strategy
    ttl_minutes: float
    expires_at: datetime


class Thread(WireModel):
    """A thread as clients read it. `error` and `interrupts` are there once something has run."""

    thread_id: UUID
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    metadata: Object
    status: Status
    config: Object
    values: Any
    error: Object | None = None
    interrupts: Object = Field(default_factory=dict)
    ttl: TtlShown | None = None
    extracted: Object = Field(default_factory=dict)


class Send(WireModel):
    """A node to go to, with an input of its own."""

    node: str
    input: Any = None


class Command(WireModel):
    """An update that may also answer an interrupt or lead elsewhere."""

    update: Object | list[Any] | None = None
    resume: Any = None
    goto: Send | str | list[Send | str] | None = None


class SuperstepUpdate(WireModel):
    """What one node is taken to have returned."""

    values: Object | list[Any] | None = None
    command: Command | None = None
    as_node: str


class Superstep(WireModel):
    """Updates that make one checkpoint."""

    updates: list[SuperstepUpdate]


class ThreadCreate(WireModel):
    """A new thread."""

    thread_id: Maybe[Id] = None
    metadata: Object = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"
    ttl: Maybe[Ttl] = None
    supersteps: Maybe[list[Superstep]] = None


class ThreadPatch(WireModel):
    """What changes; None is left as it was."""

    metadata: Maybe[Object] = None
    ttl: Maybe[Ttl] = None


class ThreadCount(WireModel):
    """Which threads; None does not filter."""

    metadata: Maybe[Object] = None
    """What the thread's metadata must contain."""
    values: Maybe[Object] = None
    """What the thread's values must contain."""
    status: Maybe[Status] = None


class ThreadSearch(ThreadCount):
    """Which threads, in which order, and what of them."""

    ids: Maybe[list[Id]] = None
    """Only these threads; an empty list does not filter."""
    limit: Limit = 10
    offset: Offset = 0
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] = (
        "created_at"
    )
    sort_order: Literal["asc", "desc"] = "desc"
    select: Maybe[list[ThreadField]] = None
    """Answer with these fields alone."""
    extract: Maybe[
        Annotated[dict[str, Annotated[str, AfterValidator(check_path)]], Field(max_length=10)]
    ] = None
    """Names, each with a path such as `values.log[-1]`; the answers stand in `extracted`."""


class ThreadPrune(WireModel):
    """Threads to delete, or to reduce to their newest checkpoint."""

    thread_ids: list[Id]
    strategy: Strategy = "delete"


class Pruned(WireModel):
    """How many threads there were to prune."""

    pruned_count: int


class Stored(WireModel):
    """How much is kept of one kind."""

    count: int
    bytes: int


class StoredChannel(WireModel):
    """How much is kept of one channel."""

    versions: int
    bytes: int


class StoredChannels(Stored):
    """How much is kept of all channels."""

    by_channel: dict[str, StoredChannel]


class ThreadStorage(WireModel):
    """How much is kept about a thread."""

    thread_id: UUID
    total_bytes: int
    checkpoints: Stored
    channel_values: StoredChannels
    pending_writes: Stored


class ThreadQuery(QueryModel):
    """What to show beside the thread."""

    include: str = ""
    """Names with commas between; `ttl` is the only one."""


# State


class Checkpoint(WireModel):
    """Which checkpoint; the thread is that of the path, whatever stands here."""

    thread_id: str | None = None
    checkpoint_ns: Annotated[str, AfterValidator(check_namespace)] | None = None
    """Empty or None: the root graph's."""
    checkpoint_id: str | None = None
    checkpoint_map: Object | None = None


class StateQuery(QueryModel):
    """How much of the state."""

    subgraphs: Flag = False
    """Nest the states of pending nested graphs into their tasks."""


class StateAtCheckpoint(WireModel):
    """The checkpoint whose state is asked for."""

    checkpoint: Checkpoint
    subgraphs: bool = False
    """Nest the states of pending nested graphs into their tasks."""


class StateUpdate(WireModel):
    """What a node is taken to have returned."""

    values: Object | list[Any] | None = None
    as_node: Maybe[str] = None
    """The node; absent, the one that wrote last."""
    checkpoint: Maybe[Checkpoint] = None
    """The checkpoint to fork from; absent, the newest."""
    checkpoint_id: Maybe[str] = None
    """The same by its id alone."""

    @property
    def target(self) -> Object | None:
        """The checkpoint to fork from; None goes on from the newest."""
        named = self.checkpoint.model_dump(exclude_none=True) if self.checkpoint else {}
        if self.checkpoint_id:
            named.setdefault("checkpoint_id", self.checkpoint_id)
        return named or None


class HistoryQuery(QueryModel):
    """A page of a thread's history."""

    limit: Limit = 1
    before: str = ""
    """The id of a checkpoint: only older ones."""


class Before(Checkpoint):
    """A checkpoint that is too new: the pointer itself, or a config that holds it."""

    configurable: Checkpoint | None = None


class HistorySearch(WireModel):
    """Which states of a thread's history."""

    limit: Limit = 1
    before: Maybe[str | Before] = None
    """Only older checkpoints than this one."""
    metadata: Maybe[Object] = None
    """What the checkpoint's metadata must contain."""
    checkpoint: Maybe[Checkpoint] = None

    @property
    def before_id(self) -> str | None:
        """Only older checkpoints than this one; None for all."""
        if self.before is None or isinstance(self.before, str):
            return self.before or None
        pointer = self.before.configurable or self.before
        return pointer.checkpoint_id or None


class ThreadState(WireModel):
    """The state of a thread at one checkpoint."""

    values: Any
    next: list[str]
    tasks: list[Object]
    metadata: Object | None
    created_at: str | None
    checkpoint: Checkpoint | None
    parent_checkpoint: Checkpoint | None
    interrupts: list[Object]
    checkpoint_id: str | None
    parent_checkpoint_id: str | None


class StateUpdated(WireModel):
    """The checkpoint that an update wrote, in the three forms that clients know."""

    checkpoint: Checkpoint
    configurable: Checkpoint
    checkpoint_id: str
