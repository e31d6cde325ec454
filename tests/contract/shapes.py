"""An OpenAPI document as a flat table: one row for each field, to compare two documents."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

METHODS = ("get", "put", "post", "patch", "delete")
ANYTHING = frozenset({"object", "array", "string", "number", "boolean", "null"})
NOTHING = object()


@dataclass
class Field:
    """What a document says about one parameter or field; alternatives are laid together."""

    types: set[str] = field(default_factory=set)
    words: set[Any] = field(default_factory=set)
    """The values of an enum; empty when any text or number will do."""
    default: Any = NOTHING
    is_required: bool = False

    def facts(self) -> dict[str, Any]:
        """What is compared."""
        types = {
            "number" if kind == "integer" and "number" in self.types else kind
            for kind in self.types
        }
        is_any = not types or types >= ANYTHING
        found = {
            "type": "anything" if is_any else sorted(types),
            "enum": sorted(map(str, self.words)),
            "required": self.is_required,
        }
        return found if self.default is NOTHING else {**found, "default": self.default}


def rows_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every operation, parameter and field of a body: `POST /runs body config.tags[]`."""
    rows: dict[str, dict[str, Any]] = {}
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                name = f"{method.upper()} {path}"
                rows[name] = {}
                for place, found in fields_of(document, operations[method]):
                    rows[f"{name} {place}"] = found.facts()
    return rows


def fields_of(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[tuple[str, Field]]:
    """The fields of one operation, with the place of each."""
    for parameter in operation.get("parameters", []):
        found: dict[str, Field] = {}
        collect(document, parameter["schema"], "", found, ())
        found[""].is_required = parameter.get("required", False)
        for place, one in found.items():
            yield f"{parameter['in']} {parameter['name']}{place}", one
    body = operation.get("requestBody")
    if body is not None:
        found = {}
        collect(document, body["content"]["application/json"]["schema"], "", found, ())
        found[""].is_required = body.get("required", False)
        for place, one in found.items():
            yield f"body {place.lstrip('.')}".strip(), one


def collect(
    document: dict[str, Any],
    schema: dict[str, Any],
    place: str,
    found: dict[str, Field],
    above: tuple[str, ...],
) -> None:
    """Lay a schema and all below it into `found`; a shape within itself is not opened again."""
    here = found.setdefault(place, Field())
    if "default" in schema:
        here.default = schema["default"]
    if reference := schema.get("$ref"):
        if reference not in above:
            target = document["components"]["schemas"][reference.rpartition("/")[2]]
            collect(document, target, place, found, (*above, reference))
        return
    for combined in ("allOf", "anyOf", "oneOf"):
        for one in schema.get(combined, []):
            collect(document, one, place, found, above)
    kinds = schema.get("type", [])
    here.types |= {kinds} if isinstance(kinds, str) else set(kinds)
    here.words |= set(schema.get("enum", []))
    if "const" in schema:
        here.words.add(schema["const"])
    for name, below in schema.get("properties", {}).items():
        collect(document, below, f"{place}.{name}", found, above)
        found[f"{place}.{name}"].is_required |= name in schema.get("required", [])
    if isinstance(schema.get("additionalProperties"), dict):
        collect(document, schema["additionalProperties"], f"{place}.*", found, above)
    if schema.get("items"):
        collect(document, schema["items"], f"{place}[]", found, above)


def differences(
    ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """What differs: where, with the fact, and how. Of a missing field, the field alone."""
    for place in sorted(ours.keys() | theirs.keys()):
        if place not in ours:
            yield f"{place} missing", f"theirs: {theirs[place]}"
        elif place not in theirs:
            yield f"{place} added", f"ours: {ours[place]}"
        else:
            for fact in sorted(ours[place].keys() | theirs[place].keys()):
                mine, other = ours[place].get(fact), theirs[place].get(fact)
                if mine != other:
                    yield f"{place} {fact}", f"ours: {mine}, theirs: {other}"
