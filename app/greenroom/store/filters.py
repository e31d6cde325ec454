"""What a search's filter means, as SQL on a `value` column; the same for the API and for graphs.

A field that is missing counts as null: `$ne` matches it, a comparison does not. Numbers compare
with numbers, strings with strings. `greenroom.store.matching` says the same without Postgres.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenroom import wire
from greenroom.errors import BadRequest

MAX_CONDITIONS = 200
COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
IS_OBJECT = "is an object"
"""Not an operator of clients: what an object in a filter wants of the field that it stands for."""
MATCHES = {
    "$eq": "COALESCE({field}, 'null') = CAST({operand} AS jsonb)",
    "$ne": "COALESCE({field}, 'null') <> CAST({operand} AS jsonb)",
    "$in": "COALESCE({field}, 'null') IN (SELECT jsonb_array_elements(CAST({operand} AS jsonb)))",
    "$nin": (
        "COALESCE({field}, 'null') NOT IN (SELECT jsonb_array_elements(CAST({operand} AS jsonb)))"
    ),
    "$contains": "{field} @> jsonb_build_array(CAST({operand} AS jsonb))",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of a value."""

    sql: str
    """With `{}` where each operand's placeholder goes."""
    operands: tuple[str, ...]
    path: tuple[str, ...]
    operator: str
    operand: Any = None


def read_filter(given: Mapping[str, Any]) -> list[Condition]:
    """Turn a filter into conditions that must all hold.

    Raises:
        BadRequest: an unknown operator, an operand that it cannot take, or too many conditions.
    """
    found: list[Condition] = []
    for name, wanted in given.items():
        for condition in _conditions((name,), wanted):
            found.append(condition)
            if len(found) > MAX_CONDITIONS:
                raise BadRequest(f"The filter has more than {MAX_CONDITIONS} conditions")
    return found


def read_member(path: Sequence[str], name: str, wanted: Any) -> list[Condition]:
    """Read one member of an object that stands in a filter for the field at `path`.

    Raises:
        BadRequest: as `read_filter`.
    """
    if name.startswith("$"):
        return [_operation(path, name, wanted)]
    return [_is_object(path), *_conditions((*path, name), wanted)]


def _conditions(path: Sequence[str], wanted: Any) -> Iterator[Condition]:
    if not isinstance(wanted, dict):
        yield _operation(path, "$eq", wanted)
    elif any(name.startswith("$") for name in wanted):
        for name, operand in wanted.items():
            yield _operation(path, name, operand)
    else:
        yield _is_object(path)
        for name, inner in wanted.items():
            yield from _conditions((*path, name), inner)


def _operation(path: Sequence[str], operator: str, operand: Any) -> Condition:
    field = _field(path)
    if operator in COMPARISONS:
        return Condition(
            f"(jsonb_typeof({field}) = '{_comparable_type(operator, operand)}'"
            f" AND {field} {COMPARISONS[operator]} CAST({{}} AS jsonb))",
            (*path, *path, _encode(operand)),
            tuple(path),
            operator,
            operand,
        )
    if operator not in MATCHES:
        raise BadRequest(f"Unsupported operator: {operator}")
    if operator in {"$in", "$nin"} and not isinstance(operand, list):
        raise BadRequest(f"{operator} needs a list")
    return Condition(
        MATCHES[operator].format(field=field, operand="{}"),
        (*path, _encode(operand)),
        tuple(path),
        operator,
        operand,
    )


def _is_object(path: Sequence[str]) -> Condition:
    return Condition(
        f"jsonb_typeof({_field(path)}) = 'object'", tuple(path), tuple(path), IS_OBJECT
    )


def _field(path: Sequence[str]) -> str:
    # Not #>, which would take a number for a position in a list.
    return "(value" + " -> CAST({} AS text)" * len(path) + ")"


def _comparable_type(operator: str, operand: Any) -> str:
    match operand:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    raise BadRequest(f"{operator} needs a number or a string")


def _encode(operand: Any) -> str:
    return wire.dumps(operand).decode()
