"""Who makes a request, and what they were found to be allowed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from greenroom.auth.filters import NOTHING, combine
from greenroom.database.scope import Scope

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """What the owner's handler is asked before a view runs."""

    resource: str
    action: str
    value: dict[str, Any]
    """JSON; the handler may change it."""
    apply: Callable[[Arguments, dict[str, Any]], None] | None = None
    """Takes over what the handler has changed; None: changes mean nothing here."""
    is_soft: bool = False
    """A refusal hides every row of the resource instead of refusing the request."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was let in. Without authentication everybody is ANYONE."""

    identity: str = ""
    user: Mapping[str, Any] | None = field(default=None, repr=False)
    """What the authenticate handler gave: `identity`, `permissions` and the owner's own fields."""
    permissions: tuple[str, ...] = ()
    filters: Mapping[str, str] = field(default_factory=dict)
    """Per resource, what its rows must match."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of the request, those that runs are to learn of (`http.configurable_headers`)."""
    values: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    """What the handlers left of their questions, by resource and action."""

    def scope(self, resource: str) -> Scope:
        """Which rows of a resource this request may touch."""
        predicate = self.filters.get(resource)
        return None if predicate is None else f"strict {predicate}"

    def configurable(self) -> dict[str, Any]:
        """What graphs are told about who calls (langgraph-json.md, section 4)."""
        return {
            **self.headers,
            "user_id": self.identity,
            "langgraph_auth_user": self.user,
            "langgraph_auth_user_id": self.identity,
            "langgraph_auth_permissions": list(self.permissions),
        }

    def with_filters(self, filters: list[tuple[str, str | None]]) -> dict[str, str]:
        """The filters of all questions on each resource, together."""
        found: dict[str, str] = {}
        for resource in {resource for resource, _ in filters}:
            predicate = combine([each for name, each in filters if name == resource])
            if predicate is not None:
                found[resource] = predicate
        return found


ANYONE = Caller()
HIDDEN = NOTHING
