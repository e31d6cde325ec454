"""What the owner's application says of itself in OpenAPI, merged into what we say of the API."""

import copy
import re
from collections.abc import Mapping
from typing import Any

from greenroom import wire
from greenroom.custom_routes.table import Tables
from greenroom.errors import AppError
from greenroom.graphs.client import GraphsClient
from greenroom.logs import get_logger

log = get_logger(__name__)

PARAMETER = re.compile(r"\{[^}]*\}")
METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})


class Descriptions:
    """Ours and the application's in one; made once for each graphs process."""

    def __init__(self, graphs: GraphsClient, tables: Tables, *, is_guarded: bool) -> None:
        """Ask nobody yet.

        Args:
            is_guarded: whether callers of the application's routes are asked who they are.
        """
        self._graphs = graphs
        self._tables = tables
        self._is_guarded = is_guarded
        self._merged: bytes | None = None
        self._process: tuple[int, int] | None = None

    def with_own(self, document: bytes) -> bytes:
        """Our document with the application's; ours alone where that cannot be had."""
        process = self._tables.find_process()
        if self._merged is not None and process in {None, self._process}:
            return self._merged
        try:
            own = self._graphs.custom_description()
            merged = document
            if own is not None:
                merged = wire.dumps(merge(wire.loads(document), own, is_guarded=self._is_guarded))
        except (AppError, AttributeError, KeyError, TypeError, ValueError) as error:
            # The owner may have written anything there.
            log.warning("http.app is not described", error=repr(error))
            return document
        self._merged, self._process = merged, process
        return merged


def merge(document: dict[str, Any], own: Mapping[str, Any], *, is_guarded: bool) -> dict[str, Any]:
    """Take an application's paths over into our document, which is changed.

    Its operations take the place of ours, as its routes do. Its components are renamed where ours
    have the same name.

    Args:
        is_guarded: whether our `security` holds for its operations, too.
    """
    own = renamed(own, document["components"])
    for path, item in own["paths"].items():
        given = dict(item)
        if "security" in document and not is_guarded:
            for method in METHODS & given.keys():
                given[method] = {"security": [], **given[method]}
        clear_place(document["paths"], path, given)
        document["paths"][path] = {**document["paths"].get(path, {}), **given}
    document["paths"] = dict(sorted(document["paths"].items()))
    for kind, members in (own.get("components") or {}).items():
        known = document["components"].get(kind, {})
        document["components"][kind] = {**members, **known}
    names = {each["name"] for each in document["tags"]}
    document["tags"] += [each for each in own.get("tags") or [] if each["name"] not in names]
    return document


def clear_place(paths: dict[str, Any], path: str, item: Mapping[str, Any]) -> None:
    """Take away operations of ours at the same path, whatever its parameters are called."""
    shape = PARAMETER.sub("{}", path)
    for known in [each for each in paths if PARAMETER.sub("{}", each) == shape]:
        left = {key: value for key, value in paths[known].items() if key not in item}
        if METHODS & left.keys():
            paths[known] = left
        else:
            del paths[known]


def renamed(own: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    """An application's document, none of whose components has the name of one of ours."""
    changes = {}
    made = copy.deepcopy(dict(own))
    for kind, members in (made.get("components") or {}).items():
        if kind == "securitySchemes":
            # These are told by name, not by reference: one that both know is one.
            continue
        for name in [each for each in members if each in components.get(kind, {})]:
            changes[f"#/components/{kind}/{name}"] = f"#/components/{kind}/App.{name}"
            members[f"App.{name}"] = members.pop(name)
    found: dict[str, Any] = changed(made, changes)
    return found


def changed(value: Any, changes: Mapping[str, str]) -> Any:
    """A document with other references; they are texts that nothing else in it is."""
    if isinstance(value, dict):
        return {key: changed(each, changes) for key, each in value.items()}
    if isinstance(value, list):
        return [changed(each, changes) for each in value]
    return changes.get(value, value) if isinstance(value, str) else value
