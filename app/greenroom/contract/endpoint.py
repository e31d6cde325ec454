"""The decorator that every view wears."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_origin

from flask import Response, g, request
from pydantic import BaseModel, TypeAdapter, ValidationError
from werkzeug.datastructures import Headers

from greenroom import encryption, wire
from greenroom.auth.caller import ANYONE
from greenroom.auth.questions import OPEN, Access
from greenroom.contract.api import JSON_HEADERS, JsonResponse
from greenroom.contract.body import read_body
from greenroom.contract.fields import parse_uuid
from greenroom.contract.services import services
from greenroom.errors import InvalidRequest

View = Callable[..., Any]

PATH_IDS = {"assistant_id": "assistant", "thread_id": "thread", "run_id": "run", "cron_id": "cron"}


@dataclass(frozen=True, slots=True)
class Contract:
    """What a view takes and gives; kept on the view as `contract` for the OpenAPI document."""

    access: Access
    body: Any = None
    query: type[BaseModel] | None = None
    returns: Any = None
    status: int = 200
    also: tuple[int, ...] = ()
    """Other statuses of success, on request of the client."""
    also_text: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    is_hidden: bool = False
    """The document leaves it out."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON answer that needs more than its value.

    `value` may be bytes of JSON; None with status 202 or 204 is no body.
    """

    value: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def endpoint(
    *,
    access: Access,
    body: Any = None,
    documents: Any = None,
    query: type[BaseModel] | None = None,
    returns: Any = None,
    status: int = 200,
    also: tuple[int, ...] = (),
    also_text: bool = False,
    headers: Mapping[str, str] | None = None,
    is_hidden: bool = False,
) -> Callable[[View], Callable[..., Response]]:
    """Frame a view: path ids become UUIDs, `body` and `query` validated keyword arguments.

    The view returns a value to dump as JSON, a Reply, or a Flask Response (a stream).

    Args:
        access: who may use it; there is no route that does not say so.
        body: a WireModel, or a list of them; None for a view that reads no body.
        documents: the shape of a body that the view reads by itself, for the OpenAPI document.
        query: a QueryModel; of a parameter given twice the last counts, unless it is a list.
        returns: the shape of the answer, for the OpenAPI document.
        status: of an answer that is a plain value.
        also: other statuses of success that a client may ask for.
        also_text: whether the answer may be plain text, too.
        headers: what the view reads of them, with what they mean, for the OpenAPI document.
        is_hidden: whether that document leaves the view out.
    Raises:
        Refused: the caller is not known, or may not do this.
        InvalidRequest: with the name of the field in its sentence.
    """
    body_adapter = TypeAdapter(body) if body is not None else None
    query_adapter = TypeAdapter(query) if query is not None else None
    parameters = _parameters(query) if query is not None else {}

    def decorate(view: View) -> Callable[..., Response]:
        @functools.wraps(view)
        def framed(**path: Any) -> Response:
            found = services()
            guard = found.guard
            # Before anything else is read: who is not known learns nothing about the request.
            known = ANYONE if guard is None or access is OPEN else guard.identify()
            if (rate := found.rate) is not None and access is not OPEN:
                rate.take(known)
            arguments = {name: _path_value(name, value) for name, value in path.items()}
            if query_adapter is not None:
                arguments["query"] = _validate(query_adapter, _query_values(parameters))
            if body_adapter is not None:
                arguments["body"] = _validate(body_adapter, read_json())
            caller = known if guard is None else guard.authorise(known, access, arguments)
            if (rules := found.headers) is not None:
                caller = replace(caller, headers=rules.choose(request.headers.items()))
            g.caller = caller
            foresee_members(arguments.get("body"))
            answer = view(**arguments)
            if isinstance(answer, Response):
                return answer
            return dump(answer if isinstance(answer, Reply) else Reply(answer, status))

        framed.contract = Contract(  # type: ignore[attr-defined]
            access,
            documents or body,
            query,
            returns,
            status,
            also,
            also_text,
            headers or {},
            is_hidden,
        )
        return framed

    return decorate


def foresee_members(body: Any) -> None:
    """Have the owner's handler asked about the metadata of a body before anything is locked.

    Raises:
        HandlerFailed: it gave no answer.
    """
    if not encryption.has_handler():
        return
    for each in body if isinstance(body, list) else [body]:
        if isinstance(metadata := getattr(each, "metadata", None), dict):
            encryption.choose(metadata)


def dump(reply: Reply) -> Response:
    """Turn a Reply into the HTTP answer."""
    if reply.status in {202, 204} and reply.value is None:
        response = Response(status=reply.status, headers=dict(reply.headers))
        del response.headers["content-type"]
        return response
    data = reply.value if isinstance(reply.value, bytes) else wire.dumps(reply.value)
    return JsonResponse(data, reply.status, Headers([*JSON_HEADERS, *reply.headers.items()]))


def read_json() -> Any:
    """Decode the request's body.

    Raises:
        InvalidRequest: it is empty, not JSON, or nested too deeply.
        BodyTooLarge: it is longer than HTTP_MAX_REQUEST_BODY_BYTES.
    """
    body = read_body()
    try:
        value = wire.loads(body)
    except ValueError as error:
        raise InvalidRequest("Invalid JSON in request body") from error
    if isinstance(value, dict | list) and wire.is_too_deep(value, body):
        raise InvalidRequest(f"the request is nested more than {wire.MAX_DEPTH} levels deep")
    return value


def _path_value(name: str, value: str) -> Any:
    noun = PATH_IDS.get(name)
    if noun is None:
        return value
    try:
        return parse_uuid(value)
    except ValueError as error:
        raise InvalidRequest(f"Invalid {noun} ID: must be a UUID") from error


def _parameters(model: type[BaseModel]) -> dict[str, bool]:
    """Whether each may be given several times."""
    fields = model.model_fields.items()
    return {name: get_origin(info.annotation) is list for name, info in fields}


def _query_values(parameters: Mapping[str, bool]) -> dict[str, Any]:
    if not request.query_string:
        return {}
    values: dict[str, Any] = {}
    for name, is_list in parameters.items():
        if given := request.args.getlist(name):
            values[name] = given if is_list else given[-1]
    # As in a body: no query reaches Postgres with what it cannot hold.
    cleaned: dict[str, Any] = wire.clean(values)
    return cleaned


def _validate(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(describe(error)) from error
    except RecursionError as error:
        raise InvalidRequest("the request is nested too deeply") from error


def describe(error: ValidationError) -> str:
    """Tell each fault with the path of its field, as the clients' users read it."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        where = "".join(f"[{wire.dumps(part).decode()}]" for part in fault["loc"])
        lines.append(f"{fault['msg']}\n\nOn instance{where}")
    return "\n".join(lines[:10])
