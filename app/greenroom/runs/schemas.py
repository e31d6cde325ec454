"""Runs on the wire (http.md, sections 3 and 4)."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from greenroom.contract.fields import (
    Flag,
    Id,
    Maybe,
    Object,
    QueryModel,
    WireModel,
    show_words,
)
from greenroom.threads.schemas import Checkpoint, Command

StreamMode = Literal[
    "values",
    "messages",
    "messages-tuple",
    "tasks",
    "checkpoints",
    "updates",
    "events",
    "debug",
    "custom",
]
MultitaskStrategy = Literal["reject", "rollback", "interrupt", "enqueue"]
ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
Nodes = Literal["*"] | list[str]
THREAD_MODES = ("run_modes", "lifecycle", "state_update")
STATUSES = ("pending", "running", "error", "success", "timeout", "interrupted")
RUN_FIELDS = (
    "run_id",
    "thread_id",
    "assistant_id",
    "created_at",
    "updated_at",
    "status",
    "metadata",
    "kwargs",
    "multitask_strategy",
    "langsmith_session_name",
)


class RunConfig(WireModel, extra="allow"):
    """A RunnableConfig as a client sends it."""

    configurable: Maybe[Object] = None
    tags: Maybe[list[str]] = None
    recursion_limit: Maybe[int] = None
    metadata: Maybe[Object] = None


class Run(WireModel):
    """A run as clients read it."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    metadata: Object
    status: Literal["pending", "running", "error", "success", "timeout", "interrupted"]
    kwargs: Object
    multitask_strategy: MultitaskStrategy
    created_at: datetime
    updated_at: datetime
    langsmith_session_name: str | None = None


class RunCreate(WireModel):
    """What every new run may say."""

    assistant_id: str
    """An assistant's id, or the name of a graph."""
    input: Any = None
    """What the graph begins with; null goes on from the checkpoint."""
    command: Command | None = None
    """In place of an input: an answer to an interrupt, an update, a jump."""
    config: RunConfig = Field(default_factory=RunConfig)
    context: Object = Field(default_factory=dict)
    metadata: Object = Field(default_factory=dict)
    stream_mode: list[StreamMode] | StreamMode = Field(default=["values"])
    """What is streamed, now or to those who join later."""
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    """Keep the events for those who come back with a Last-Event-ID."""
    interrupt_before: Maybe[Nodes] = None
    """Names of nodes to stop before; `*` for all."""
    interrupt_after: Maybe[Nodes] = None
    """Names of nodes to stop after; `*` for all."""
    webhook: Maybe[Annotated[str, StringConstraints(min_length=1, max_length=65536)]] = None
    feedback_keys: Maybe[list[str]] = None
    after_seconds: Maybe[Annotated[float, Field(allow_inf_nan=False, le=10**9)]] = None
    checkpoint_during: Maybe[bool] = Field(None, json_schema_extra={"deprecated": True})
    """False means `exit`; `durability` tells more."""
    durability: Maybe[Literal["sync", "async", "exit"]] = Field(
        None, json_schema_extra={"default": "async"}
    )
    """When checkpoints are written: before the next step, beside it, or at the end alone."""
    on_disconnect: Literal["cancel", "continue"] = "continue"
    """What becomes of the run when its only reader leaves."""

    @property
    def stream_modes(self) -> list[str]:
        """Always a list, as it is stored and shown."""
        return list(self.stream_mode) if isinstance(self.stream_mode, list) else [self.stream_mode]


class RunCreateStateful(RunCreate):
    """A run on a thread."""

    checkpoint: Maybe[Checkpoint] = None
    """Where to start from; absent, the newest."""
    checkpoint_id: Maybe[str] = None
    """The same by its id alone."""
    multitask_strategy: MultitaskStrategy = "enqueue"
    """What to do when the thread has another run: wait, refuse, stop that one, or undo it."""
    if_thread_status: Maybe[ThreadStatus | list[ThreadStatus]] = None
    """Refuse the run (409) unless the thread is in this state, or in one of these."""
    if_not_exists: Literal["create", "reject"] = "reject"
    """What to do when there is no such thread."""


class RunCreateStateless(RunCreate):
    """A run that makes its own thread."""

    on_completion: Literal["delete", "keep"] = "delete"
    """What becomes of the thread."""


RunBatch = Annotated[list[RunCreateStateless], Field(min_length=1)]


class RunsCancel(
    WireModel,
    json_schema_extra={"oneOf": [{"required": ["status"]}, {"required": ["thread_id", "run_ids"]}]},
):
    """Which runs to cancel: all of a status, or some of one thread."""

    status: Maybe[Literal["pending", "running", "all"]] = None
    thread_id: Maybe[Id] = None
    run_ids: Maybe[list[Id]] = None

    @model_validator(mode="after")
    def name_the_runs(self) -> Self:
        """Exactly one of the two forms."""
        by_ids = self.thread_id is not None and self.run_ids is not None
        if (self.status is not None) == by_ids or (
            not by_ids and (self.thread_id is not None or self.run_ids is not None)
        ):
            raise ValueError("give either status, or thread_id and run_ids")
        return self


class RunsQuery(QueryModel):
    """A page of a thread's runs."""

    limit: Annotated[int, Field(ge=0, le=2**31 - 1)] = 10
    offset: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    status: Annotated[str, show_words(*STATUSES)] | None = None
    select: list[Annotated[str, show_words(*RUN_FIELDS)]] = Field(default_factory=list)
    """Answer with these fields alone."""


class ActionQuery(QueryModel):
    """How to cancel."""

    action: Annotated[str, show_words("interrupt", "rollback")] = "interrupt"
    """Whether the run stays, as interrupted, or goes with its checkpoints."""


class CancelQuery(ActionQuery):
    """How to cancel, and when to answer."""

    wait: Flag = False
    """Answer when the run has ended."""


class JoinQuery(QueryModel):
    """How to join."""

    cancel_on_disconnect: Flag = False
    """Cancel the run when its only reader leaves."""
    stream_mode: list[str] = Field(default_factory=list)
    """Of a stream: only events of these modes."""


class ThreadStreamQuery(QueryModel):
    """Which events of a thread; names may also stand in one text, with commas between."""

    stream_modes: list[Annotated[str, show_words(*THREAD_MODES)]] = Field(
        default_factory=list, json_schema_extra={"default": ["run_modes"]}
    )
    stream_mode: list[Annotated[str, show_words(*THREAD_MODES)]] = Field(default_factory=list)
    """Another name for `stream_modes`."""
