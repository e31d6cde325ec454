"""What an authorisation handler's filter means, as a jsonpath predicate over metadata.

All members must hold. `{"k": v}` and `{"k": {"$eq": v}}` want the value itself;
`{"k": {"$contains": v}}` wants a list that has it, or all of a list; a plain object or list stands
for one that contains it. `$or` and `$and` take lists of filters. Anything else is an error: a
filter that is not understood must not be taken for one that lets everything through.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from greenroom import wire

MAX_DEPTH = 10
MAX_CONDITIONS = 200
NOTHING = "(1 == 0)"
"""Matches no row."""


class UnknownFilterError(ValueError):
    """The filter cannot be understood; the sentence says where."""


def compile_filter(given: Mapping[str, Any]) -> str | None:
    """Turn a filter into a predicate; None for an empty one, which every row meets.

    Raises:
        UnknownFilterError: an unknown operator, an operand of the wrong type, or too much of it.
    """
    if not given:
        return None
    predicate = _all(_members("$", given, 0))
    if predicate.count("==") > MAX_CONDITIONS:
        raise UnknownFilterError(f"the filter has more than {MAX_CONDITIONS} conditions")
    return predicate


def combine(predicates: list[str | None]) -> str | None:
    """The predicate that holds where all hold; None where none filters."""
    kept = list(dict.fromkeys(each for each in predicates if each is not None))
    return _all(kept) if kept else None


def _all(predicates: Any) -> str:
    return "(" + " && ".join(predicates) + ")"


def _members(path: str, given: Mapping[str, Any], depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise UnknownFilterError(f"the filter is nested more than {MAX_DEPTH} levels deep")
    for name, wanted in given.items():
        if not isinstance(name, str):
            raise UnknownFilterError(f"{name!r} is not the name of a field")
        if name in {"$or", "$and"} and path == "$":
            yield _branches(name, wanted, depth)
        elif name.startswith("$"):
            raise UnknownFilterError(f"unknown operator {name}")
        else:
            yield _field(f"{path}.{_quote(name)}", wanted, depth)


def _branches(name: str, wanted: Any, depth: int) -> str:
    if not isinstance(wanted, list | tuple) or not wanted:
        raise UnknownFilterError(f"{name} needs a list of filters")
    branches = []
    for branch in wanted:
        if not isinstance(branch, Mapping) or not branch:
            raise UnknownFilterError(f"{name} needs a list of filters, none of them empty")
        branches.append(_all(_members("$", branch, depth + 1)))
    return "(" + (" || " if name == "$or" else " && ").join(branches) + ")"


def _field(path: str, wanted: Any, depth: int) -> str:
    if isinstance(wanted, Mapping):
        if any(isinstance(name, str) and name.startswith("$") for name in wanted):
            return _all(_operation(path, name, operand) for name, operand in wanted.items())
        is_object = f'{path}.type() == "object"'
        return _all([is_object, *_members(path, wanted, depth + 1)])
    if isinstance(wanted, list | tuple):
        return _has_all(path, wanted)
    return f"{path} == {_literal(wanted)}"


def _operation(path: str, operator: str, operand: Any) -> str:
    if operator == "$eq":
        return f"{path} == {_literal(operand)}"
    if operator == "$contains":
        return _has_all(path, operand if isinstance(operand, list | tuple) else [operand])
    raise UnknownFilterError(f"unknown operator {operator}")


def _has_all(path: str, wanted: Any) -> str:
    # `exists` with a filter: a list of mixed types is no error there, as it is in a comparison.
    is_list = f'{path}.type() == "array"'
    return _all([is_list, *(f"exists({path}[*] ? (@ == {_literal(one)}))" for one in wanted)])


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return json.dumps(wire.clean(value))
    if isinstance(value, str):
        return _quote(value)
    raise UnknownFilterError(f"a filter compares with JSON scalars, not {type(value).__name__}")


def _quote(text: str) -> str:
    """A string of jsonpath, whose escapes are those of JSON."""
    return json.dumps(wire.clean(text), ensure_ascii=False)
