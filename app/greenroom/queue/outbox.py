"""What is owed to webhooks, written in the transaction that ends the run.

So no crash in between can lose it. Sending is another matter (greenroom.webhooks). A run that is
rolled back or deleted owes nothing: it is as if it had never been.
"""

from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from sqlalchemy import Connection

from greenroom import wire
from greenroom.database.pages import AnyRow
from greenroom.encryption import seal, unseal, unseal_maybe
from greenroom.identifiers import new_id
from greenroom.queue.statements import STATEMENTS
from greenroom.queue.states import CancelAction, RunStatus

INTERNAL_PREFIXES = ("langgraph_auth_", "__")
"""Of keys in `config.configurable` that are nobody's business outside: who called, for one."""


def find_notice(connection: Connection, run_id: UUID) -> AnyRow | None:
    """What a webhook is told about a run besides its end; None: no such run.

    To be read before an end that removes the run's row.
    """
    return connection.execute(STATEMENTS["find_notice"], {"run_id": run_id}).one_or_none()


def get_notice(connection: Connection, run_id: UUID) -> AnyRow:
    """As `find_notice`, of a run that this transaction has ended and left where it was."""
    return connection.execute(STATEMENTS["find_notice"], {"run_id": run_id}).one()


def owe(
    connection: Connection,
    notice: AnyRow,
    status: RunStatus,
    *,
    error: dict[str, str] | None,
    values: bytes | None = None,
) -> None:
    """Write the delivery of a run that this transaction ends (http.md, 3.3).

    Args:
        notice: a row of `find_notice`, of a run with a webhook.
        values: JSON of the state that the run left; None takes what the thread shows.
    """
    last = connection.execute(STATEMENTS["find_last_values"], {"thread_id": notice.thread_id}).one()
    if notice.is_temporary:
        values = None
    elif values is None:
        values = unseal_maybe(last.last_values)
    body = {
        "run_id": notice.run_id,
        "thread_id": notice.thread_id,
        "assistant_id": notice.assistant_id,
        "metadata": notice.metadata,
        "status": status,
        "kwargs": public_kwargs(wire.loads(unseal(notice.kwargs))),
        "multitask_strategy": notice.multitask_strategy,
        "created_at": notice.created_at,
        "updated_at": last.ended_at,
        "langsmith_session_name": None,
        # Cancelled before it began: it took no time.
        "run_started_at": notice.started_at or last.ended_at,
        "run_ended_at": last.ended_at,
        "values": None if values is None else orjson.Fragment(values),
    }
    if error is not None:
        body["error"] = error
    connection.execute(
        STATEMENTS["add_delivery"],
        {
            "delivery_id": new_id(),
            "run_id": notice.run_id,
            "thread_id": notice.thread_id,
            "kept_run_id": None if notice.is_temporary else notice.run_id,
            "url": notice.webhook,
            "host": urlsplit(notice.webhook).netloc.lower(),
            "body": seal(wire.dumps(body)),
            "metadata": notice.thread_metadata,
        },
    )


def public_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A run's kwargs without what the server put there about its caller."""
    config = kwargs["config"]
    configurable = {
        key: value
        for key, value in config.get("configurable", {}).items()
        if not key.startswith(INTERNAL_PREFIXES)
    }
    return {**kwargs, "config": {**config, "configurable": configurable}}


def describe_cancel(thread_id: UUID, run_id: UUID, action: CancelAction) -> dict[str, str]:
    """What the thread and the webhook are told about a cancelled run."""
    path = f"/threads/{thread_id}/runs/{run_id}/cancel"
    if action is CancelAction.ROLLBACK:
        return {"error": "UserRollback", "message": f"rollback requested via POST {path}"}
    return {"error": "UserInterrupt", "message": f"interrupt requested via POST {path}"}
