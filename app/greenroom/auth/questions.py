"""What each request asks of the owner's handlers (langgraph-json.md, section 5).

A route declares its Access; there is no route without one (contract.endpoint). Handlers see the
value of a question and may change what `changes` names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from greenroom.auth.caller import Arguments, Question
from greenroom.contract.fields import UUID_FORM
from greenroom.errors import AppError, InvalidRequest
from greenroom.identifiers import system_assistant_id

IDS = ("assistant_id", "thread_id", "run_id", "cron_id")
RUN_FIELDS = ("metadata", "after_seconds")
KWARGS = (
    *("input", "command", "config", "context", "webhook", "stream_mode", "interrupt_before"),
    *("interrupt_after", "durability"),
)
CRON_FIELDS = ("schedule", "end_time", "metadata")
Build = Callable[[Arguments], list[Question]]


class InvalidChange(AppError):
    """A handler has made something of a value that no request could be."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a route: what it asks, and of which resources it sees only the caller's part."""

    asks: tuple[tuple[str, str], ...]
    """Resource and action of each question."""
    build: Build

    def __add__(self, other: "Access") -> "Access":
        """Ask both."""
        return Access(
            self.asks + other.asks, lambda arguments: self.build(arguments) + other.build(arguments)
        )


OPEN = Access((), lambda _: [])
"""Everybody, known or not."""
KNOWN = Access((), lambda _: [])
"""Every caller who is known."""


def ask(
    resource: str,
    action: str,
    /,
    *fields: str,
    changes: Sequence[str] = (),
    when: Callable[[Arguments], bool] = lambda _: True,
    **fixed: Any,
) -> Access:
    """Ask one question: the path's ids, and fields of the body.

    Args:
        fields: of the body; None where it does not have them.
        changes: those of them that a handler may change.
        when: whether this request asks it.
        fixed: further members of the value.
    """

    def build(arguments: Arguments) -> list[Question]:
        if not when(arguments):
            return []
        value = {name: arguments[name] for name in IDS if name in arguments}
        value |= fields_of(arguments.get("body"), fields) | fixed
        return [Question(resource, action, value, changer(changes, value))]

    return Access(((resource, action),), build)


def fields_of(body: Any, fields: Sequence[str]) -> dict[str, Any]:
    """Some fields of a body as JSON data."""
    if not isinstance(body, BaseModel):
        return {}
    shown = body.model_dump(include=set(fields))
    found = {name: shown.get(name) for name in fields}
    if "metadata" in found:
        # Handlers add to it, whether the client has sent some or not.
        found["metadata"] = found["metadata"] or {}
    return found


def changer(
    changes: Sequence[str], before: Mapping[str, Any]
) -> Callable[[Arguments, dict[str, Any]], None] | None:
    """What takes over the fields of a body that a handler has changed."""
    if not changes:
        return None

    def apply(arguments: Arguments, value: dict[str, Any]) -> None:
        changed = {name: value[name] for name in changes if value.get(name) != before.get(name)}
        for name, each in changed.items():
            if not isinstance(each, dict):
                raise InvalidChange(f"Auth handler made {name} something that is not an object")
        if changed:
            arguments["body"] = arguments["body"].model_copy(update=changed)

    return apply


# Runs


def create_run_question(
    body: Any, thread_id: Any, apply: Callable[[Arguments, dict[str, Any]], None] | None
) -> Question:
    """A run that is to be let in; `thread_id` is None where it makes its own."""
    fields = fields_of(body, RUN_FIELDS)
    key = body.assistant_id
    value = {
        "thread_id": thread_id,
        "assistant_id": key if UUID_FORM.fullmatch(key) else system_assistant_id(key),
        "run_id": None,
        "status": "pending",
        "metadata": fields["metadata"],
        "prevent_insert_if_inflight": getattr(body, "multitask_strategy", None) == "reject",
        "multitask_strategy": getattr(body, "multitask_strategy", "enqueue"),
        "if_not_exists": getattr(body, "if_not_exists", "reject"),
        "after_seconds": fields["after_seconds"] or 0,
        "kwargs": fields_of(body, KWARGS),
    }
    return Question("threads", "create_run", value, apply)


def _create_run(arguments: Arguments) -> list[Question]:
    body = arguments["body"]
    apply = changer(("metadata",), {"metadata": body.metadata})
    return [create_run_question(body, arguments.get("thread_id"), apply), USES_ASSISTANT]


def _create_batch(arguments: Arguments) -> list[Question]:
    def changed(position: int) -> Callable[[Arguments, dict[str, Any]], None]:
        def apply(arguments: Arguments, value: dict[str, Any]) -> None:
            one = {"body": arguments["body"][position]}
            change = changer(("metadata",), {"metadata": one["body"].metadata})
            if change is not None:
                change(one, value)
            bodies = list(arguments["body"])
            bodies[position] = one["body"]
            arguments["body"] = bodies

        return apply

    runs = [
        create_run_question(body, None, changed(position))
        for position, body in enumerate(arguments["body"])
    ]
    return [*runs, USES_ASSISTANT]


# Not asked of the reference's handlers. Without it anybody could run an assistant that they may
# not see, and read its configuration in the run. A graph's own assistant is everybody's.
USES_ASSISTANT = Question("assistants", "read", {"assistant_id": None}, is_soft=True)
CREATE_RUN = Access((("threads", "create_run"),), _create_run)
CREATE_BATCH = Access((("threads", "create_run"),), _create_batch)
READ_THREAD = ask("threads", "read")
COMMAND = Access((*READ_THREAD.asks, ("threads", "create_run")), READ_THREAD.build)
"""Reading first; whatever makes a run asks once more, when it has been read which."""
CREATE_RUN_AND_WAIT = CREATE_RUN + READ_THREAD
UPDATE_THREAD = ask("threads", "update", "metadata", changes=("metadata",))
CANCEL_RUN = ask("threads", "update", action="interrupt", metadata={})
CANCEL_RUNS = ask("threads", "update", "thread_id", action="interrupt", metadata={})


# Crons


def _create_cron(arguments: Arguments) -> list[Question]:
    body = arguments["body"]
    thread_id = arguments.get("thread_id")
    value = {
        **fields_of(body, CRON_FIELDS),
        "metadata": body.metadata or {},
        "payload": body.model_dump(exclude_unset=True),
        "cron_id": None,
        "thread_id": thread_id,
        "user_id": None,
    }
    apply = changer(("metadata",), value)
    questions = [Question("crons", "create", value, apply), USES_ASSISTANT]
    if thread_id is not None:
        # Its runs work on somebody's thread.
        run = {
            "thread_id": thread_id,
            "assistant_id": None,
            "run_id": None,
            "status": "pending",
            "metadata": body.metadata or {},
            "multitask_strategy": body.multitask_strategy or "enqueue",
            "kwargs": fields_of(body, KWARGS),
        }
        questions.append(Question("threads", "create_run", run))
    return questions


def _update_cron(arguments: Arguments) -> list[Question]:
    body = arguments["body"]
    value = {
        "cron_id": arguments["cron_id"],
        "payload": body.model_dump(exclude_unset=True),
        "schedule": body.schedule,
        "metadata": body.metadata or {},
    }
    return [Question("crons", "update", value, changer(("metadata",), value))]


CREATE_CRON = Access((("crons", "create"),), _create_cron)
UPDATE_CRON = Access((("crons", "update"),), _update_cron)
SEARCH_CRONS = ask("crons", "search", "assistant_id", "thread_id", "limit", "offset") + ask(
    "threads", "search", "thread_id", metadata={}, status=None, limit=None, offset=None
)


# Store


def ask_store(
    action: str, *fields: str, source: str = "body", namespace: str = "namespace"
) -> Access:
    """Ask about items; a handler keeps callers apart by rewriting the namespace.

    Args:
        source: the argument that has the fields: `body` or `query`.
        namespace: the field of the namespace, which handlers always find as `namespace`.
    """

    def build(arguments: Arguments) -> list[Question]:
        model = arguments[source]
        given = getattr(model, namespace)
        labels = given.split(".") if isinstance(given, str) else given
        value = {**fields_of(model, fields), "namespace": labels}

        def apply(arguments: Arguments, changed: dict[str, Any]) -> None:
            rewritten = changed.get("namespace")
            if rewritten == labels:
                return
            if not isinstance(rewritten, list) or not all(isinstance(x, str) for x in rewritten):
                raise InvalidChange("Auth handler made namespace something that is not a tuple")
            check_labels(rewritten)
            update = ".".join(rewritten) if isinstance(given, str) else rewritten
            arguments[source] = arguments[source].model_copy(update={namespace: update})

        return [Question("store", action, value, apply)]

    return Access((("store", action),), build)


def check_labels(labels: Sequence[str]) -> None:
    """Refuse a label with a dot in it: joined up it would be somebody else's namespace.

    Raises:
        InvalidRequest: a label is empty or has a dot.
    """
    for label in labels:
        if not label or "." in label:
            raise InvalidRequest(
                f"Namespace label '{label}' must be a non-empty string without periods"
            )
