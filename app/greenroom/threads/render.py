"""A thread's row as clients read it; the only place that knows the shape."""

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from greenroom import wire
from greenroom.database.pages import AnyRow
from greenroom.encryption import unseal
from greenroom.threads.extract import Path, follow

Json = dict[str, Any]
# From the worker to the client nobody reads these: the bytes go on as they are.
STATE_FIELDS = ("config", "values", "error", "interrupts")
ABSENT = {"config": b"{}", "values": b"null", "error": b"null", "interrupts": b"{}"}


def thread_object(row: AnyRow, *, with_ttl: bool = False) -> Json:
    """Show a whole thread (a row of `queries.THREAD`).

    `error` and `interrupts` are left out until something has run (observed.md, section 3).
    """
    shown = {
        "thread_id": row.thread_id,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "state_updated_at": row.state_updated_at,
        "metadata": row.metadata,
        "status": row.status,
        "config": _raw(row, "config"),
        "values": _raw(row, "values"),
    }
    if row.has_state:
        shown |= {"error": _raw(row, "error"), "interrupts": _raw(row, "interrupts")}
    if with_ttl:
        shown["ttl"] = _ttl(row)
    return shown


def selected_thread(row: AnyRow, fields: Collection[str], paths: Mapping[str, Path]) -> Json:
    """Show the named fields of a thread, and what lies at the paths.

    Args:
        fields: of the wire; empty for the whole thread.
        paths: what to show as `extracted`, by alias.
    """
    mapping = row._mapping  # noqa: SLF001 (SQLAlchemy's public name)
    shown = (
        {name: _raw(row, name) if name in STATE_FIELDS else mapping[name] for name in fields}
        if fields
        else thread_object(row)
    )
    if paths:
        roots = {path[0] for path in paths.values()}
        data = {
            root: mapping[root] if root == "metadata" else wire.loads(_bytes(row, str(root)))
            for root in roots
        }
        shown["extracted"] = {alias: follow(path, data) for alias, path in paths.items()}
    return shown


def _raw(row: AnyRow, name: str) -> orjson.Fragment:
    return orjson.Fragment(_bytes(row, name))


def _bytes(row: AnyRow, name: str) -> bytes:
    value = getattr(row, name)
    return ABSENT[name] if value is None else unseal(value)


def _ttl(row: AnyRow) -> Json | None:
    if row.ttl_minutes is None:
        return None
    return {
        "strategy": row.ttl_strategy,
        "ttl_minutes": row.ttl_minutes,
        "expires_at": row.expires_at,
    }
