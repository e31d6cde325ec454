"""Runs on the wire (http.md, sections 3 and 4)."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from greenroom.contract.fields import Flag, Id, Maybe, Object, QueryModel, WireModel
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
    input: Any = None
    command: Command | None = None
    config: RunConfig = Field(default_factory=RunConfig)
    context: Object = Field(default_factory=dict)
    metadata: Object = Field(default_factory=dict)
    stream_mode: list[StreamMode] | StreamMode = "values"
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    interrupt_before: Maybe[Nodes] = None
    interrupt_after: Maybe[Nodes] = None
    webhook: Maybe[Annotated[str, StringConstraints(min_length=1, max_length=65536)]] = None
    feedback_keys: Maybe[list[str]] = None
    after_seconds: Maybe[Annotated[float, Field(allow_inf_nan=False, le=10**9)]] = None
    checkpoint_during: Maybe[bool] = None
    durability: Maybe[Literal["sync", "async", "exit"]] = None
    on_disconnect: Literal["cancel", "continue"] = "continue"

    @property
    def stream_modes(self) -> list[str]:
        """Always a list, as it is stored and shown."""
        return list(self.stream_mode) if isinstance(self.stream_mode, list) else [self.stream_mode]


class RunCreateStateful(RunCreate):
    """A run on a thread."""

    checkpoint: Maybe[Checkpoint] = None
    checkpoint_id: Maybe[str] = None
    multitask_strategy: MultitaskStrategy = "enqueue"
    if_thread_status: Maybe[ThreadStatus | list[ThreadStatus]] = None
    """Refuse the run (409) unless the thread is in this state, or in one of these."""
    if_not_exists: Literal["create", "reject"] = "reject"


class RunCreateStateless(RunCreate):
    """A run that makes its own thread."""

    on_completion: Literal["delete", "keep"] = "delete"


class RunsCancel(WireModel):
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
    status: str | None = None
    select: list[str] = Field(default_factory=list)


class CancelQuery(QueryModel):
    """How to cancel."""

    wait: Flag = False
    action: str = "interrupt"


class JoinQuery(QueryModel):
    """How to join."""

    cancel_on_disconnect: Flag = False
    stream_mode: list[str] = Field(default_factory=list)
