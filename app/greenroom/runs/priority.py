"""Which thread's runs come first: asked once per thread of the owner's handler.

The rules are those of langgraph-json.md, section 7; what they do to the queue is `next_turn` in
alembic/versions/20261121_priority.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from greenroom.config import Project
from greenroom.database.engine import Database
from greenroom.errors import ConfigError
from greenroom.queue.admission import NewRun, Standing
from greenroom.threads.queries import find_standing

if TYPE_CHECKING:
    from greenroom.runs.preparing import Prepared

NOBODY = {"identity": "", "display_name": "", "is_authenticated": False, "permissions": []}
"""The user of a server that asks nobody who they are."""

Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Calls the handler with the fields of a `PriorityContext`; answers `priority` and
`fairness_group`. Raises AppError when the handler failed."""


@dataclass(frozen=True, slots=True)
class Priorities:
    """Asks for threads that have no settings yet."""

    database: Database
    ask: Ask

    def settle(self, prepared: "Prepared", cron_id: UUID | None = None) -> "Prepared":
        """A run with the settings that its thread shall have, unless that has some.

        Raises:
            AppError: the handler failed; nothing is stored.
        """
        new, found = prepared.new, None
        if not prepared.is_stateless:
            with self.database.statement() as connection:
                found = find_standing(connection, new.thread_id, new.scope)
        if found is not None and found.fairness_group is not None:
            return prepared
        if found is None and not prepared.creates_thread:
            # Admission says so.
            return prepared
        metadata = prepared.thread_metadata if found is None else found.metadata
        answer = self.ask(
            {
                **describe(new, prepared.kwargs),
                "thread_id": None if prepared.is_stateless else str(new.thread_id),
                "thread_metadata": metadata,
                "cron_id": None if cron_id is None else str(cron_id),
            }
        )
        standing = Standing(answer["priority"], answer["fairness_group"])
        return prepared._replace(new=new._replace(standing=standing))


def make_priorities(project: Project, database: Database, ask: Ask) -> Priorities | None:
    """Who is asked about threads; None where langgraph.json names no handler.

    Raises:
        ConfigError: its block has another form.
    """
    return Priorities(database, ask) if read_path(project) else None


def describe(new: NewRun, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `PriorityContext` that are about the run itself."""
    configurable = kwargs["config"]["configurable"]
    user: Mapping[str, Any] = configurable.get("langgraph_auth_user") or NOBODY
    return {
        "user": user,
        "permissions": list(user.get("permissions") or []),
        "assistant_id": str(new.assistant_id),
        "graph_id": new.graph_id,
        "assistant_metadata": new.base_metadata,
        "run_metadata": new.metadata,
    }


def read_path(project: Project) -> str | None:
    """Where langgraph.json says that the handler is; None: there is none.

    Raises:
        ConfigError: the block has another form.
    """
    block = project.raw.get("priority")
    if block is None:
        return None
    path = block.get("path") if isinstance(block, dict) else None
    if not isinstance(path, str) or ":" not in path:
        raise ConfigError('langgraph.json: "priority" must be {"path": "./file.py:variable"}')
    return path
