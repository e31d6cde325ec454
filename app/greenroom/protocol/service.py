"""The rules of commands: runs that are started and answered, trees, streams that are opened."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

from pydantic import ValidationError
from sqlalchemy import Connection

from greenroom import wire
from greenroom.assistants.known import KnownAssistants
from greenroom.auth.caller import ANYONE, Caller
from greenroom.config import Project
from greenroom.database.engine import Database
from greenroom.encryption import unseal
from greenroom.errors import AppError, Unavailable
from greenroom.protocol import queries
from greenroom.protocol.errors import CommandError, InvalidArgument, NoSuchInterrupt, NoSuchRun
from greenroom.protocol.schemas import Command, success
from greenroom.queue.admission import AssistantChangedError
from greenroom.queue.states import TERMINAL
from greenroom.runs import service as run_service
from greenroom.runs.preparing import Prepared, prepare
from greenroom.runs.priority import Priorities
from greenroom.runs.schemas import RunCreateStateful
from greenroom.runs.service import Entry
from greenroom.signals.sender import Signals
from greenroom.threads.queries import thread_exists

SHOWN_MODES = ["values", "updates", "custom"]
"""What joiners of generation 1 may see of a run of generation 2."""
RUN_FIELDS = (
    "assistant_id",
    "input",
    "config",
    "metadata",
    "context",
    "multitask_strategy",
    "interrupt_before",
    "interrupt_after",
    "durability",
    "webhook",
    "after_seconds",
    "if_thread_status",
)
CHECKPOINT_KEYS = ("checkpoint_id", "checkpoint_ns", "checkpoint_map")
REMEMBERED_RUNS = 10
"""Among so many an answer that comes twice is looked for."""

Handler = Callable[["Commands", UUID, dict[str, Any]], dict[str, Any]]

Permit = Callable[[RunCreateStateful, UUID], tuple[RunCreateStateful, Caller]]


def permit_anything(body: RunCreateStateful, _thread_id: UUID) -> tuple[RunCreateStateful, Caller]:
    """Where nobody is asked who they are."""
    return body, ANYONE


class Commands:
    """Carries out the commands that need no open stream."""

    def __init__(
        self,
        database: Database,
        assistants: KnownAssistants,
        signals: Signals,
        project: Project,
        caller: Caller = ANYONE,
        permit: Permit = permit_anything,
        priorities: Priorities | None = None,
    ) -> None:
        """Work for one caller, who may read the thread.

        Args:
            permit: asks whether a run may be made, which the owner's handler may change.
            priorities: who is asked about the order of runs; None: nobody.
        """
        self.caller = caller
        self.permit = permit
        self.priorities = priorities
        self.database = database
        self.assistants = assistants
        self.signals = signals
        self.project = project

    def carry_out(self, thread_id: UUID, command: Command) -> dict[str, Any]:
        """Do what a command says: the answer for its client.

        Raises:
            CommandError: it is refused.
            Unavailable: something is down for the moment.
        """
        handler = HANDLERS.get(command.method)
        if handler is None:
            raise CommandError("unknown_command", f"Unknown protocol command: {command.method}.")
        try:
            result = handler(self, thread_id, command.params)
        except Unavailable:
            raise
        except AppError as error:
            raise CommandError("unknown_error", f"{error.status}: {error}") from error
        return success(command.command_id, result)

    def start_run(self, thread_id: UUID, params: dict[str, Any]) -> dict[str, Any]:
        """`run.start`: a run on this thread, which is made if need be."""
        assistant_id = params.get("assistant_id")
        if not isinstance(assistant_id, str) or not assistant_id:
            raise InvalidArgument("run.start requires an assistant_id.")
        return self._admit(self._prepare(thread_id, params))

    def respond(self, thread_id: UUID, params: dict[str, Any]) -> dict[str, Any]:
        """`input.respond`: a run that goes on with the answers to interrupts."""
        answers = read_answers(params)
        latest = self._latest(thread_id, answers)
        command = {"resume": answers}
        command |= {name: params[name] for name in ("update", "goto") if params.get(name)}
        given = {name: params.get(name) for name in ("config", "metadata")}
        prepared = self._prepare(
            thread_id, {**given, "assistant_id": str(latest.assistant_id)}, command
        )

        def check(connection: Connection) -> None:
            # Under the lock: of two that answer the same, one finds it answered.
            status = queries.lock_thread(connection, thread_id)
            waiting = queries.find_interrupts(connection, thread_id)
            for interrupt_id in answers:
                if status == "busy" or interrupt_id not in waiting:
                    raise NoSuchInterrupt(interrupt_id)

        return self._admit(prepared, check)

    def get_tree(self, thread_id: UUID, _params: dict[str, Any]) -> dict[str, Any]:
        """`agent.getTree`: the graph that is at work."""
        self._require(thread_id)
        with self.database.statement() as connection:
            latest = queries.list_latest_runs(connection, thread_id, REMEMBERED_RUNS)
        active = [run for run in latest if run.status not in TERMINAL]
        if not active:
            raise NoSuchRun("No active run is bound to this thread.")
        tree = {"namespace": [], "status": "running", "graph_name": active[-1].graph_id}
        return {"tree": tree}

    def subscribe(self, _thread_id: UUID, _params: dict[str, Any]) -> dict[str, Any]:
        """`subscription.subscribe` without a socket to send events on: nothing comes of it."""
        return {"subscription_id": str(uuid4()), "replayed_events": 0}

    def unsubscribe(self, _thread_id: UUID, params: dict[str, Any]) -> dict[str, Any]:
        """`subscription.unsubscribe` of the same."""
        if not isinstance(params.get("subscription_id"), str):
            raise InvalidArgument("subscription.unsubscribe requires a subscription_id.")
        return {}

    def reconnect(self, _thread_id: UUID, _params: dict[str, Any]) -> dict[str, Any]:
        """`subscription.reconnect`: without a socket there is nothing to come back to."""
        raise NoSuchRun("No active run is bound to this thread.")

    def open_events(self, thread_id: UUID) -> None:
        """Somebody reads a thread's numbered events: its runs make them from now on.

        A run that is on its way begins at once. A thread that does not exist yet is left alone.
        """
        with self.database.statement() as connection:
            if not queries.lacks_numbers(connection, thread_id):
                return
            if not queries.number_events(connection, thread_id):
                return
            running = queries.find_running(connection, thread_id)
        if running:
            self.signals.show(running)

    def sees(self, thread_id: UUID) -> bool:
        """Whether the thread is there for this caller; without a filter it need not exist yet."""
        scope = self.caller.scope("threads")
        if scope is None:
            return True
        with self.database.statement() as connection:
            return thread_exists(connection, thread_id, scope)

    def _require(self, thread_id: UUID) -> None:
        if not self.sees(thread_id):
            raise NoSuchRun("No active run is bound to this thread.")

    def _prepare(
        self, thread_id: UUID, params: Mapping[str, Any], command: dict[str, Any] | None = None
    ) -> Prepared:
        body, caller = self.permit(read_run(params, command), thread_id)
        return prepare(
            self.assistants,
            self.project,
            body,
            thread_id,
            caller=caller,
            priorities=self.priorities,
        )

    def _admit(
        self, prepared: Prepared, check: Callable[[Connection], None] | None = None
    ) -> dict[str, Any]:
        """Let a run in, unless the check objects, and wake a worker."""
        try:
            entry = self._enter(mark(prepared), check)
        except AssistantChangedError:
            if prepared.again is None:
                raise
            prepared = prepared.again()
            entry = self._enter(mark(prepared), check)
        run_service.announce_entry(self.signals, prepared, entry)
        return {"run_id": str(prepared.new.run_id)}

    def _enter(self, prepared: Prepared, check: Callable[[Connection], None] | None) -> Entry:
        with self.database.transaction() as connection:
            if check is not None:
                check(connection)
            entry = run_service.enter(connection, prepared)
            queries.number_events(connection, prepared.new.thread_id)
        return entry

    def _latest(self, thread_id: UUID, answers: Mapping[str, Any]) -> Any:
        """The run whose assistant goes on.

        Raises:
            NoSuchRun: nothing on this thread has ever waited for such an answer.
            NoSuchInterrupt: none of its interrupts has this id, or not any more.
        """
        self._require(thread_id)
        with self.database.statement() as connection:
            latest = queries.list_latest_runs(connection, thread_id, REMEMBERED_RUNS)
            waiting = queries.find_interrupts(connection, thread_id)
        unknown = [interrupt_id for interrupt_id in answers if interrupt_id not in waiting]
        if latest and not unknown:
            return latest[0]
        if waiting or any(has_answered(run.kwargs, unknown) for run in latest):
            raise NoSuchInterrupt(unknown[0])
        raise NoSuchRun("No interrupted run is bound to this thread.")


HANDLERS: dict[str, Handler] = {
    "run.start": Commands.start_run,
    "input.respond": Commands.respond,
    "agent.getTree": Commands.get_tree,
    "subscription.subscribe": Commands.subscribe,
    "subscription.unsubscribe": Commands.unsubscribe,
    "subscription.reconnect": Commands.reconnect,
}


def mark(prepared: Prepared) -> Prepared:
    """Write down that the run is of generation 2: its worker asks more of its graph."""
    kwargs = {**prepared.kwargs, "protocol": "v2"}
    return prepared._replace(kwargs=kwargs, new=prepared.new._replace(kwargs=wire.dumps(kwargs)))


def read_answers(params: Mapping[str, Any]) -> dict[str, Any]:
    """The answers of `input.respond`, one or many, by the ids of their interrupts.

    Raises:
        InvalidArgument: an id is missing.
    """
    many = params.get("responses")
    given = many if isinstance(many, list) and many else [params]
    answers = {}
    for one in given:
        interrupt_id = one.get("interrupt_id") if isinstance(one, dict) else None
        if not isinstance(interrupt_id, str) or not interrupt_id:
            raise InvalidArgument("input.respond requires an interrupt_id.")
        answers[interrupt_id] = one.get("response")
    return answers


def has_answered(kwargs: Any, interrupt_ids: list[str]) -> bool:
    """Whether a run went on with an answer to one of these."""
    command = wire.loads(unseal(kwargs)).get("command") or {}
    resume = command.get("resume")
    return isinstance(resume, dict) and any(one in resume for one in interrupt_ids)


def read_run(params: Mapping[str, Any], command: dict[str, Any] | None) -> RunCreateStateful:
    """What a run of generation 2 is asked to do, as a request for a run.

    Raises:
        InvalidArgument: a field has the wrong type or value.
    """
    given = {name: params[name] for name in RUN_FIELDS if params.get(name) is not None}
    given |= {
        "stream_mode": SHOWN_MODES,
        "stream_subgraphs": True,
        "stream_resumable": True,
        "if_not_exists": "create",
    }
    if command is not None:
        given["command"] = command
    if isinstance(config := given.get("config"), dict):
        given["config"], checkpoint = split_config(config)
        if checkpoint:
            given["checkpoint"] = checkpoint
    try:
        return RunCreateStateful.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise InvalidArgument(f"{field}: {fault['msg']}") from error


def split_config(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config without the thread, which the path names, and the checkpoint to start from."""
    configurable = config.get("configurable")
    if not isinstance(configurable, dict):
        return config, {}
    own = {key: value for key, value in configurable.items() if key != "thread_id"}
    checkpoint = {key: own.pop(key) for key in CHECKPOINT_KEYS if key in own}
    rest = {key: value for key, value in config.items() if key != "configurable"}
    found = {key: value for key, value in checkpoint.items() if value is not None}
    return ({**rest, "configurable": own} if own else rest), found
