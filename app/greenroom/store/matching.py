"""What a search's filter means for values that Postgres cannot read: as its JSONB has it.

Numbers are equal by their value, and none is a boolean; strings are ordered by code points, where a
database of another collation than C would order them by its language.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from greenroom.store.filters import IS_OBJECT, Condition

ABSENT = object()
COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(conditions: Iterable[Condition], value: Any) -> bool:
    """Whether an item's value meets all conditions."""
    return all(_holds(each, _find(value, each.path)) for each in conditions)


def _find(value: Any, path: Iterable[str]) -> Any:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


def _holds(condition: Condition, found: Any) -> bool:
    wanted = condition.operand
    if condition.operator == IS_OBJECT:
        return isinstance(found, dict)
    if condition.operator == "$contains":
        return isinstance(found, list) and _contains(found, [wanted])
    if compare := COMPARE.get(condition.operator):
        return _kind(found) is _kind(wanted) and compare(found, wanted)
    found = None if found is ABSENT else found
    match condition.operator:
        case "$eq":
            return _equal(found, wanted)
        case "$ne":
            return not _equal(found, wanted)
        case "$in":
            return any(_equal(found, each) for each in wanted)
        case "$nin":
            return not any(_equal(found, each) for each in wanted)
    raise AssertionError(condition.operator)


def _kind(value: Any) -> type | None:
    """JSON's type; its numbers are one."""
    return float if type(value) is int else type(value)


def _equal(one: Any, other: Any) -> bool:
    if _kind(one) is not _kind(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _contains(whole: Any, part: Any) -> bool:
    """JSONB's `@>` for what is inside: objects by members, lists whatever their order."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(name in whole and _contains(whole[name], part[name]) for name in part)
    if isinstance(whole, list) and isinstance(part, list):
        return all(any(_contains(each, wanted) for each in whole) for wanted in part)
    return _equal(whole, part)
