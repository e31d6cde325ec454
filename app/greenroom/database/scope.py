"""Which rows a caller may see: one jsonpath over a resource's metadata, bound in every statement.

It is made of an authorisation handler's filter (greenroom.auth.filters). None: every row.
"""

from typing import Any

from sqlalchemy import Column, ColumnElement, cast
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH

Scope = str | None
"""A predicate for Postgres's `@@`, in strict mode; None does not filter."""

IS_VISIBLE = "(CAST(:scope AS text) IS NULL OR {metadata} @@ CAST(:scope AS jsonpath))"
"""The same for a text, which binds `scope`. The driver binds constants: None costs nothing."""


def visible(metadata: Column[Any] | ColumnElement[Any], scope: Scope) -> list[ColumnElement[bool]]:
    """Conditions that hide what the caller may not see; none of them where there is no filter."""
    if scope is None:
        return []
    return [cast(metadata, JSONB).bool_op("@@")(cast(scope, JSONPATH))]


def is_visible(metadata: str) -> str:
    """The condition for a text, of a column's name."""
    return IS_VISIBLE.format(metadata=metadata)
