"""What a new run stores, worked out from the request and its assistant."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from greenroom import wire
from greenroom.assistants.known import KnownAssistants
from greenroom.assistants.mirror import mirror
from greenroom.assistants.queries import ForRun
from greenroom.auth.caller import ANYONE, Caller
from greenroom.config import Project
from greenroom.contract.fields import UUID_FORM
from greenroom.encryption import choose
from greenroom.errors import InvalidRequest, NotFound
from greenroom.identifiers import new_id
from greenroom.queue.admission import NewRun
from greenroom.queue.states import CancelAction
from greenroom.runs.priority import Priorities
from greenroom.runs.schemas import RunCreate, RunCreateStateful, RunCreateStateless
from greenroom.threads.expiry import default_ttl
from greenroom.threads.queries import Ttl
from greenroom.webhooks.service import check_url
from greenroom.webhooks.settings import read_rules

Find = Callable[[str], ForRun | None]
UNKNOWN = "Thread or assistant not found."


class Prepared(NamedTuple):
    """A run that has been checked and only needs to be let in."""

    new: NewRun
    kwargs: dict[str, Any]
    creates_thread: bool
    is_temporary: bool
    thread_metadata: dict[str, Any]
    """Of a thread made for it."""
    ttl: Ttl | None = None
    """The same's time to live."""
    again: Callable[[], "Prepared"] | None = None
    """Prepares the same run anew, from the assistant as it is by then."""

    @property
    def is_stateless(self) -> bool:
        """No thread was named."""
        return bool(self.kwargs["temporary"])

    @property
    def action(self) -> CancelAction | None:
        """What its strategy does to the runs before; None leaves them alone."""
        strategy = self.new.multitask_strategy
        return CancelAction(strategy) if strategy in {"interrupt", "rollback"} else None


def prepare(
    assistants: KnownAssistants,
    project: Project,
    body: RunCreate,
    thread_id: UUID | None,
    own_thread_id: UUID | None = None,
    caller: Caller = ANYONE,
    priorities: Priorities | None = None,
    *,
    is_heard: bool = False,
) -> Prepared:
    """Check a request and work out what the run will store.

    The assistant may have changed since this process last saw it: `admit` finds out.

    Args:
        thread_id: None for a stateless run, which gets a thread of its own.
        own_thread_id: the id of that thread; None makes one up.
        priorities: who is asked about threads without settings; None: nobody.
        is_heard: somebody reads the run's events from the first one on.
    Raises:
        NotFound: no such assistant.
        GraphFault, GraphsUnavailable: the owner's priority handler failed, or cannot be asked.
        InvalidRequest: `assistant_id` is neither a uuid nor a graph, or `webhook` breaks a rule.
        BadRequest: both `config.configurable` and `context` are given.
    """
    if body.webhook is not None:
        check_url(read_rules(project), body.webhook)
    check_key(project, body.assistant_id)
    run_id, target = new_id(), thread_id or own_thread_id or uuid4()

    def make(find: Find, *, is_fresh: bool) -> Prepared:
        if (assistant := find(body.assistant_id)) is None:
            raise NotFound(UNKNOWN)
        return prepare_for(
            assistant,
            body,
            thread_id,
            target,
            run_id=run_id,
            caller=caller,
            made_from=None if is_fresh else assistant.updated_at,
            ttl=default_ttl(project),
            is_heard=is_heard,
        )

    scope = caller.scope("assistants")
    if scope is not None and body.assistant_id not in project.graphs:
        # Whether it may be seen is asked of Postgres, each time.
        hidden = partial(assistants.look, scope=scope)
        prepared = make(hidden, is_fresh=True)
        return priorities.settle(prepared) if priorities else prepared

    prepared = make(assistants.find, is_fresh=False)
    if priorities is not None:
        prepared = priorities.settle(prepared)
    standing = prepared.new.standing

    def again() -> Prepared:
        anew = make(assistants.look, is_fresh=True)
        return anew._replace(new=anew.new._replace(standing=standing))

    return prepared._replace(again=again)


def prepare_for(
    assistant: Any,
    body: RunCreate,
    thread_id: UUID | None,
    own_thread_id: UUID | None = None,
    *,
    run_id: UUID | None = None,
    origin: Mapping[str, str] | None = None,
    caller: Caller = ANYONE,
    made_from: datetime | None = None,
    ttl: Ttl | None = None,
    is_heard: bool = False,
) -> Prepared:
    """Work out what a run of an assistant that has been found will store.

    Args:
        assistant: as `find_assistant` gives it; the body's `assistant_id` is not looked at.
        thread_id: None for a stateless run.
        own_thread_id: as for `prepare`.
        run_id: None makes one up.
        origin: the id of what starts it, for `configurable`; None for a client's request.
        made_from: when the assistant was changed last, if that may be known too late.
        ttl: of the thread that it makes, unless that is temporary.
        is_heard: as for `prepare`.
    Raises:
        BadRequest: both `config.configurable` and `context` are given.
        HandlerFailed: nobody knows which of the metadata are to be encrypted.
    """
    run_id, target = run_id or new_id(), thread_id or own_thread_id or uuid4()
    is_stateless = thread_id is None
    keep = isinstance(body, RunCreateStateless) and body.on_completion == "keep"
    ids = {"graph_id": assistant.graph_id, "assistant_id": str(assistant.assistant_id)}
    base_metadata = {"created_by": "system", **assistant.metadata}
    metadata = {**ids, **body.metadata}
    kwargs = make_kwargs(body, assistant, {**base_metadata, **metadata}, run_id, target)
    kwargs["config"]["configurable"] |= {**(origin or {}), **caller.configurable()}
    kwargs["temporary"] = is_stateless
    kwargs["on_completion"] = "keep" if keep else "delete"
    strategy = body.multitask_strategy if isinstance(body, RunCreateStateful) else "enqueue"
    # Before anything is locked: the owner's handler may take its time.
    for each in (base_metadata, metadata):
        choose(each)
    return Prepared(
        new=NewRun(
            run_id=run_id,
            thread_id=target,
            assistant_id=assistant.assistant_id,
            graph_id=assistant.graph_id,
            multitask_strategy=strategy,
            metadata=metadata,
            kwargs=wire.dumps(kwargs),
            thread_metadata=ids,
            delay_seconds=body.after_seconds or 0,
            webhook=body.webhook,
            base_metadata=base_metadata,
            if_thread_status=wanted_statuses(body),
            assistant_updated_at=made_from,
            scope=caller.scope("threads"),
            is_heard=is_heard,
        ),
        kwargs=kwargs,
        creates_thread=is_stateless
        or (isinstance(body, RunCreateStateful) and body.if_not_exists == "create"),
        is_temporary=is_stateless and not keep,
        thread_metadata={**body.metadata, **ids},
        ttl=ttl if keep or not is_stateless else None,
    )


def wanted_statuses(body: RunCreate) -> tuple[str, ...] | None:
    """The states of the thread in which a run wants to be let in; None: any."""
    wanted = body.if_thread_status if isinstance(body, RunCreateStateful) else None
    if wanted is None:
        return None
    return tuple(wanted) if isinstance(wanted, list) else (wanted,)


def check_key(project: Project, key: str) -> None:
    """Refuse what cannot name an assistant: neither a uuid nor a graph of ours."""
    if not UUID_FORM.fullmatch(key) and key not in project.graphs:
        known = ", ".join(sorted(project.graphs))
        raise InvalidRequest(
            f"Invalid assistant: {key!r} in field assistant_id. Must be either:\n"
            f"- A valid assistant UUID, or\n- One of the registered graphs: {known}"
        )


def make_kwargs(
    body: RunCreate, assistant: Any, metadata: Mapping[str, Any], run_id: UUID, thread_id: UUID
) -> dict[str, Any]:
    """What the worker needs to run it; shown to clients as the run's `kwargs` (http.md 3)."""
    own, context = mirror(body.config.model_dump(exclude_none=True), body.context)
    configurable = {
        **(assistant.config.get("configurable") or {}),
        **(own.get("configurable") or {}),
        **checkpoint_of(body),
        "run_id": str(run_id),
        "thread_id": str(thread_id),
        "graph_id": assistant.graph_id,
        "assistant_id": str(assistant.assistant_id),
        **ANYONE.configurable(),
        "langgraph_request_id": str(uuid4()),
    }
    config = {
        **assistant.config,
        **own,
        "configurable": configurable,
        "metadata": {
            **(assistant.config.get("metadata") or {}),
            **(own.get("metadata") or {}),
            **metadata,
        },
    }
    durability = body.durability or ("exit" if body.checkpoint_during is False else "async")
    return {
        "input": body.input,
        "command": body.command.model_dump(exclude_unset=True) if body.command else None,
        "config": config,
        "context": {**assistant.context, **context},
        "stream_mode": body.stream_modes,
        "interrupt_before": body.interrupt_before,
        "interrupt_after": body.interrupt_after,
        "webhook": body.webhook,
        "feedback_keys": body.feedback_keys,
        "subgraphs": body.stream_subgraphs,
        "resumable": body.stream_resumable,
        "checkpoint_during": durability != "exit",
        "durability": durability,
    }


def checkpoint_of(body: RunCreate) -> dict[str, Any]:
    """The checkpoint to start from, in the terms of `configurable`."""
    if not isinstance(body, RunCreateStateful):
        return {}
    given = body.checkpoint.model_dump(exclude_none=True) if body.checkpoint else {}
    given.pop("thread_id", None)
    if body.checkpoint_id:
        given["checkpoint_id"] = body.checkpoint_id
    return given
