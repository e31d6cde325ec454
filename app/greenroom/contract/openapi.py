"""The OpenAPI 3.1 document, generated from what the views declare: it cannot lie about them."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Flask, Response
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from werkzeug.routing import Rule

import greenroom
from greenroom.contract.endpoint import PATH_IDS, Contract

REFERENCES = "#/components/schemas/{model}"
PLACEHOLDER = re.compile(r"<(?:\w+:)?(\w+)>")
PUBLISHED_NAMES = {"assistant_or_graph_id": "assistant_id"}
"""Path parameters that the reference calls otherwise."""
FAILURES = {
    "400": "The request contradicts itself.",
    "404": "Nothing of that name.",
    "409": "The resource exists, or is in a state that forbids this.",
    "413": "The body is too large.",
    "422": "A field is missing or has the wrong type, form or range; the text names it.",
    "503": "Something that we need is down for the moment; see Retry-After.",
}
ERROR = {
    "description": "What went wrong, in a sentence.",
    "type": "object",
    "properties": {"detail": {"type": "string"}},
    "required": ["detail"],
}
EVENT = {
    "description": "One event of a stream; its data is JSON, as text.",
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string"},
        "id": {"type": "string", "description": "What to send as Last-Event-ID."},
    },
    "required": ["event", "data"],
}
STREAMED = {"text/event-stream": {"schema": {"$ref": "#/components/schemas/StreamEvent"}}}
PLAIN = {"text/plain": {"schema": {"type": "string"}}}
TAGS = {
    "Assistants": "Graphs with a configuration, kept in versions.",
    "Crons": "Runs that start by the clock.",
    "Protocol": "Today's front ends: commands, and numbered events of all runs of a thread.",
    "Runs": "Graphs at work: in the background, waited for, or streamed.",
    "Store": "Items that outlive threads.",
    "System": "The server itself.",
    "Threads": "What runs leave behind: their state and its history.",
    "Webhooks": "Calls to others when runs end.",
}
LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "Replay what came after this event; -1 replays a run from its start.",
}


class WireSchema(GenerateJsonSchema):
    """Pydantic's generator, without what says nothing: null defaults, names in capitals."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: a field's name is title enough."""
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        """Leave out the default None of a field that may only be absent."""
        shown = super().default_schema(schema)
        if shown.get("default", ...) is None:
            del shown["default"]
        return shown


def build_document(app: Flask, prefix: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe every view that wears a contract.

    Args:
        prefix: MOUNT_PREFIX, which becomes the server's URL instead of part of each path.
        own: the owner's `auth.openapi`: securitySchemes, security, and more for paths.
    """
    views = list(find_views(app, prefix))
    schemas, references = collect_schemas(contract for _, _, _, contract in views)
    paths: dict[str, dict[str, Any]] = {}
    for path, rule, view, contract in views:
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            operation = describe(rule, view, contract, references)
            paths.setdefault(path, {})[method.lower()] = operation
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Greenroom",
            "version": greenroom.__version__,
            "description": "A self-hosted server for LangGraph agents.",
        },
        "servers": [{"url": prefix or "/"}],
        "tags": [
            {"name": name, "description": TAGS.get(name, "")}
            for name in sorted({tag_of(rule) for _, rule, _, _ in views})
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**schemas, "ErrorResponse": ERROR, "StreamEvent": EVENT},
            "responses": dict(describe_failures()),
        },
    }
    return with_security(document, own) if own else document


def with_security(document: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merge what the owner says about authentication (langgraph-json.md, 2.3)."""
    if schemes := own.get("securitySchemes"):
        document["components"]["securitySchemes"] = schemes
    if security := own.get("security"):
        document["security"] = security
    for path, operations in (own.get("paths") or {}).items():
        known = document["paths"].setdefault(path, {})
        for method, more in operations.items():
            known[method] = {**known.get(method, {}), **more}
    return document


def find_views(app: Flask, prefix: str) -> Iterator[tuple[str, Rule, Any, Contract]]:
    """Every rule whose view has a contract, with its path in OpenAPI's form."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        contract = getattr(view, "contract", None)
        if contract is not None and not contract.is_hidden:
            path = PLACEHOLDER.sub(
                lambda found: f"{{{published(found[1])}}}", rule.rule.removeprefix(prefix)
            )
            yield path, rule, view, contract


def published(name: str) -> str:
    """A path parameter's name in the document."""
    return PUBLISHED_NAMES.get(name, name)


def collect_schemas(contracts: Iterator[Contract]) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The schemas of all bodies and answers: definitions, and how to refer to (type, mode)."""
    inputs = []
    for contract in contracts:
        for kind, mode in ((contract.body, "validation"), (contract.returns, "serialization")):
            if is_described(kind):
                inputs.append((kind, mode))
    unique = list(dict.fromkeys((str(kind), mode) for kind, mode in inputs))
    by_name = {(str(kind), mode): kind for kind, mode in inputs}
    adapters = [(key, key[1], TypeAdapter(by_name[key])) for key in unique]
    references, document = TypeAdapter.json_schemas(
        adapters,  # type: ignore[arg-type]
        ref_template=REFERENCES,
        schema_generator=WireSchema,
    )
    return document.get("$defs", {}), {key: references[key, key[1]] for key in unique}  # type: ignore[index]


def is_described(kind: Any) -> bool:
    """Whether a type has a schema of its own: neither nothing, nor anything, nor a stream."""
    return kind is not None and kind is not Any and kind is not Response


def describe(
    rule: Rule, view: Any, contract: Contract, references: Mapping[Any, Any]
) -> dict[str, Any]:
    """One operation."""
    summary, _, description = (inspect.getdoc(view) or "").partition("\n")
    operation: dict[str, Any] = {
        "tags": [tag_of(rule)],
        "summary": summary.rstrip("."),
        "operationId": rule.endpoint.rpartition(".")[2],
        "parameters": parameters_of(rule, contract),
        "responses": responses_of(rule, contract, references),
    }
    if text := description.strip():
        operation["description"] = text
    if contract.body is not None:
        schema = references[str(contract.body), "validation"]
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def tag_of(rule: Rule) -> str:
    """The resource: blueprints that share one are told apart by their paths alone."""
    head: str = rule.endpoint.partition(".")[0]
    return {"states": "Threads", "joins": "Runs"}.get(head, head.capitalize())


def parameters_of(rule: Rule, contract: Contract) -> list[dict[str, Any]]:
    """Path, query and header parameters."""
    found: list[dict[str, Any]] = []
    for name in sorted(rule.arguments, key=rule.rule.index):
        schema = {"type": "string", "format": "uuid"} if name in PATH_IDS else {"type": "string"}
        parameter = {"name": published(name), "in": "path", "required": True}
        found.append({**parameter, "schema": schema})
    if contract.query is not None:
        shown = contract.query.model_json_schema(schema_generator=WireSchema)
        required = shown.get("required", [])
        for name, schema in shown.get("properties", {}).items():
            parameter = {"name": name, "in": "query", "required": name in required}
            if text := schema.pop("description", None):
                parameter["description"] = text
            found.append({**parameter, "schema": without_null(schema)})
    for name, text in contract.headers.items():
        parameter = {"name": name, "in": "header", "required": False, "description": text}
        found.append({**parameter, "schema": {"type": "string"}})
    if contract.returns is Response and rule.methods and "GET" in rule.methods:
        found.append(LAST_EVENT_ID)
    return found


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of what a query can hold: None there means that it was not sent."""
    others = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    if len(others) != 1:
        return schema
    return {**others[0], **{key: value for key, value in schema.items() if key != "anyOf"}}


def responses_of(rule: Rule, contract: Contract, references: Mapping[Any, Any]) -> dict[str, Any]:
    """The answer, and everything that may go wrong."""
    answer: dict[str, Any] = {"description": "Success"}
    if contract.returns is Response:
        answer["content"] = STREAMED
    elif contract.returns is not None:
        schema = references.get((str(contract.returns), "serialization"), {})
        answer["content"] = {"application/json": {"schema": schema}}
    if contract.also_text:
        answer["content"] |= PLAIN
    responses: dict[str, Any] = {str(contract.status): answer}
    for status in contract.also:
        responses[str(status)] = {"description": "Success, as asked for in the request"}
    for code in failures_of(rule, contract):
        responses.setdefault(code, {"$ref": f"#/components/responses/{code}"})
    return responses


def describe_failures() -> Iterator[tuple[str, dict[str, Any]]]:
    """The answers that operations share."""
    for code, text in FAILURES.items():
        schema = {"$ref": "#/components/schemas/ErrorResponse"}
        yield code, {"description": text, "content": {"application/json": {"schema": schema}}}


def failures_of(rule: Rule, contract: Contract) -> Iterator[str]:
    """What may go wrong: reading conflicts with nothing, and what is not sent is not refused."""
    reads = "GET" in (rule.methods or set())
    has_body = contract.body is not None
    names_something = has_body or bool(rule.arguments)
    impossible = set()
    if reads:
        impossible.add("409")
    if not has_body:
        impossible.add("413")
    if not names_something:
        impossible |= {"404"}
    if not names_something and contract.query is None:
        impossible |= {"400", "422"}
    return (code for code in FAILURES if code not in impossible)
