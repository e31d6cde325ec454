"""The rules of webhooks: which URLs a run may name, and what became of its deliveries."""

from typing import Any
from uuid import UUID

from greenroom.database.engine import Database
from greenroom.database.scope import Scope
from greenroom.webhooks import policy, queries
from greenroom.webhooks.policy import Resolver
from greenroom.webhooks.settings import Rules


def check_url(rules: Rules, url: str, resolve: Resolver = policy.resolve) -> None:
    """Check the webhook of a run or cron that is being created.

    Not to be called with a database session in hand: the resolver may take its time.

    Args:
        url: absolute, or a path of this server's own.
        resolve: the system's resolver, or another.
    Raises:
        WebhookRefused: a rule is broken (422); the sentence names the field `webhook`.
    """
    if policy.is_own_path(url):
        policy.check_own_path(rules, url)
    else:
        policy.check(rules, url, resolve)


def list_for_run(
    database: Database, thread_id: UUID, run_id: UUID, scope: Scope = None
) -> list[dict[str, Any]]:
    """The deliveries of a run, oldest first; empty: it owes none, or has not ended."""
    with database.statement() as connection:
        rows = queries.list_for_run(connection, thread_id, run_id, scope)
    return [dict(row._mapping) for row in rows]  # noqa: SLF001 (SQLAlchemy's public name)


def list_newest(database: Database, *, only_failed: bool, limit: int) -> list[dict[str, Any]]:
    """The newest deliveries of the server, newest first."""
    with database.statement() as connection:
        rows = queries.list_newest(connection, only_failed=only_failed, limit=limit)
    return [dict(row._mapping) for row in rows]  # noqa: SLF001 (SQLAlchemy's public name)
