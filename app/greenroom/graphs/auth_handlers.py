"""The owner's `Auth` object at work: who a request is from, and what that caller may do.

Whatever the handlers do, the answer is either a caller or a refusal; a handler that fails, hangs or
returns what cannot be understood refuses.
"""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from langgraph_sdk import Auth

from greenroom import wire
from greenroom.auth.filters import UnknownFilterError, compile_filter
from greenroom.errors import ConfigError
from greenroom.graphs.encoding import encode_json
from greenroom.graphs.factories import run_in_thread
from greenroom.graphs.users import AuthUser
from greenroom.logs import get_logger

log = get_logger(__name__)

Json = dict[str, Any]
PARAMETERS = frozenset(
    {
        *("request", "body", "path", "method", "path_params", "query_params"),
        *("headers", "authorization"),
    }
)
"""What an authenticate handler may ask for, by name."""
IDS = ("thread_id", "assistant_id", "run_id", "cron_id")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 9110, 5.5: a line break would begin a header of somebody else's making.
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
OUR_HEADERS = frozenset({"content-length", "content-type", "transfer-encoding", "connection"})


class Refusal(Exception):
    """The request goes no further."""

    def __init__(self, status: int, detail: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def as_json(self) -> Json:
        """For the web process."""
        headers = {}
        for name, value in (self.headers or {}).items():
            if not (HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value)):
                log.warning("header of an auth handler left out", header=repr(name))
            elif name.lower() not in OUR_HEADERS:
                headers[name] = value
        status = self.status if 400 <= self.status < 600 else 500  # noqa: PLR2004 (HTTP's own)
        return {"refused": {"status": status, "detail": str(self.detail), "headers": headers}}


class AuthHandlers:
    """One `Auth` object. `seconds` is how long a handler may take."""

    def __init__(self, auth: Auth, seconds: float) -> None:
        authenticate = auth._authenticate_handler
        if authenticate is None:
            raise ConfigError("auth.path: the Auth object has no @auth.authenticate handler")
        self._authenticate: Callable[..., Any] = authenticate
        self._wanted = read_parameters(authenticate)
        self._handlers: dict[tuple[str, str], Callable[..., Awaitable[Any]]] = {
            pair: handlers[-1] for pair, handlers in auth._handlers.items() if handlers
        }
        if auth._global_handlers:
            self._handlers["*", "*"] = auth._global_handlers[-1]
        self._seconds = seconds

    def rules(self) -> Json:
        """What the web process must know before it asks."""
        return {
            "wants_body": bool({"body", "request"} & self._wanted),
            "handlers": [list(pair) for pair in self._handlers],
        }

    async def authenticate(self, fields: Mapping[str, Any]) -> Json:
        """Find out who makes a request.

        Args:
            fields: method, path, path_params, query_params, headers ([[name, value]]), body (text
                or None).
        Returns:
            `{"user": {...}}` or `{"refused": {"status", "detail", "headers"}}`.
        """
        offered = offer(fields, self._wanted)
        given = {name: offered[name] for name in self._wanted}
        try:
            found = await self._call("authenticate", self._authenticate, given)
            return {"user": wire.loads(encode_json(describe_user(found)))}
        except Refusal as refusal:
            return refusal.as_json()

    async def authorise(self, fields: Mapping[str, Any]) -> Json:
        """Ask the most specific handler of each question.

        Args:
            fields: `user`, and `questions` of `resource`, `action`, `value`.
        Returns:
            `{"answers": [{"filter", "value"} or {"refused"}]}`, in order.
        """
        user = AuthUser(fields["user"])
        answers = [await self._answer(user, question) for question in fields["questions"]]
        return {"answers": answers}

    def find(self, resource: str, action: str) -> Callable[..., Awaitable[Any]] | None:
        """The handler that counts (langgraph-json.md, 5); None: none does."""
        pairs = ((resource, action), (resource, "*"), ("*", action), ("*", "*"))
        return next((self._handlers[pair] for pair in pairs if pair in self._handlers), None)

    async def _answer(self, user: AuthUser, question: Mapping[str, Any]) -> Json:
        resource, action = question["resource"], question["action"]
        value = with_types(question["value"])
        handler = self.find(resource, action)
        if handler is None:
            return {"filter": None, "value": question["value"]}
        ctx = Auth.types.AuthContext(
            permissions=user["permissions"], user=user, resource=resource, action=action
        )
        try:
            result = await self._call(f"{resource}.{action}", handler, {"ctx": ctx, "value": value})
            return {
                "filter": read_result(result, resource, action),
                "value": wire.loads(encode_json(value)),
            }
        except Refusal as refusal:
            return refusal.as_json()

    async def _call(self, name: str, handler: Callable[..., Any], given: Json) -> Any:
        """Call a handler; the border to the owner's code.

        Raises:
            Refusal: the handler's own, or because it failed or took too long.
        """
        try:
            async with asyncio.timeout(self._seconds):
                if inspect.iscoroutinefunction(handler):
                    return await handler(**given)
                result = await run_in_thread(lambda: handler(**given))
                return await result if inspect.isawaitable(result) else result
        except Auth.exceptions.HTTPException as error:
            raise Refusal(error.status_code, error.detail, error.headers) from error
        except TimeoutError as error:
            log.error("auth handler hangs", handler=name, seconds=self._seconds)  # noqa: TRY400
            raise Refusal(503, "Authentication takes too long", {"retry-after": "2"}) from error
        except (Exception, SystemExit) as error:  # the owner's code may raise anything
            if type(error).__name__ == "HTTPException" and hasattr(error, "status_code"):
                # Starlette's, which has the same three fields.
                headers = getattr(error, "headers", None)
                detail = getattr(error, "detail", "")
                raise Refusal(int(error.status_code), detail, headers) from error
            log.exception("auth handler raised", handler=name)
            if isinstance(error, AssertionError) and name != "authenticate":
                # How handlers say what must hold of a caller.
                raise Refusal(403, "Forbidden") from error
            if isinstance(error, ValueError):
                raise Refusal(400, "The credentials cannot be read") from error
            raise Refusal(500, "Authentication failed") from error


def read_parameters(handler: Callable[..., Any]) -> frozenset[str]:
    """The names that an authenticate handler takes.

    Raises:
        ConfigError: it wants something that there is not.
    """
    wanted = set()
    for name, parameter in inspect.signature(handler).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in PARAMETERS:
            wanted.add(name)
        elif parameter.default is parameter.empty:
            raise ConfigError(
                f"auth.path: @auth.authenticate has an unknown parameter {name!r}; it may have "
                f"{', '.join(sorted(PARAMETERS))}"
            )
    return frozenset(wanted)


def offer(fields: Mapping[str, Any], wanted: frozenset[str]) -> Json:
    """Everything that a handler may have asked for."""
    headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in fields["headers"]
    ]
    authorization = next(
        (value for name, value in fields["headers"] if name == "authorization"), None
    )
    body: str | None = fields.get("body")
    return {
        "headers": dict(headers),
        "authorization": authorization,
        "method": fields["method"],
        "path": fields["path"],
        "path_params": fields["path_params"],
        "query_params": dict(fields["query_params"]),
        "body": read_body(body) if "body" in wanted else None,
        "request": make_request(fields, headers, body) if "request" in wanted else None,
    }


def read_body(body: str | None) -> Any:
    """A body's JSON; None where there is none, or something else."""
    try:
        return wire.loads(body) if body else None
    except ValueError:
        return None


def make_request(
    fields: Mapping[str, Any], headers: list[tuple[bytes, bytes]], body: str | None
) -> Any:
    """A Starlette request, for handlers that take one: they have Starlette, then."""
    from starlette.requests import Request  # noqa: PLC0415 (not a requirement of ours)

    async def receive() -> Json:
        return {"type": "http.request", "body": (body or "").encode(), "more_body": False}

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": fields["method"],
        "path": fields["path"],
        "raw_path": fields["path"].encode(),
        "query_string": urlencode(
            [(name, value) for name, value in fields["query_params"]]
        ).encode(),
        "headers": headers,
        "path_params": fields["path_params"],
        "scheme": "http",
        "server": ("localhost", 80),
        "client": None,
        "root_path": "",
    }
    return Request(scope, receive)


def describe_user(found: Any) -> Json:
    """What a handler returned, as a mapping with at least the four members of the SDK's BaseUser.

    Raises:
        Refusal: nobody was named, or the caller is said not to be authenticated.
    """
    if isinstance(found, str):
        user: Json = {"identity": found}
    elif isinstance(found, Mapping):
        user = {str(name): value for name, value in found.items()}
    else:
        user = attributes_of(found)
    identity = user.get("identity")
    if isinstance(identity, int | UUID) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity:
        log.warning("auth handler named nobody", result=type(found).__name__)
        raise Refusal(401, "Unauthorized")
    if not user.get("is_authenticated", True):
        raise Refusal(401, "Unauthorized")
    return {
        **user,
        "identity": identity,
        "display_name": user.get("display_name") or identity,
        "is_authenticated": True,
        "permissions": list(user.get("permissions") or []),
    }


def attributes_of(found: Any) -> Json:
    """The public fields of an object, and BaseUser's, which may be properties."""
    own = getattr(found, "__dict__", {})
    user = {name: value for name, value in own.items() if not name.startswith("_")}
    for name in ("identity", "display_name", "is_authenticated", "permissions"):
        if hasattr(found, name):
            user[name] = getattr(found, name)
    return user


def read_result(result: Any, resource: str, action: str) -> str | None:
    """The predicate that a handler's result stands for; None lets everything through.

    Raises:
        Refusal: False, or what cannot be understood.
    """
    if result is None or result is True:
        return None
    if result is False:
        raise Refusal(403, "Forbidden")
    if not isinstance(result, Mapping):
        log.error("auth handler returned neither a filter nor a flag", result=type(result).__name__)
        raise Refusal(
            500,
            "Auth handler returned invalid result. Expected a filter, None, or boolean. "
            f"Got {type(result).__name__}.",
        )
    try:
        return compile_filter(result)
    except UnknownFilterError as error:
        log.error("auth filter not understood", handler=f"{resource}.{action}", error=str(error))  # noqa: TRY400
        raise Refusal(500, f"Auth handler returned an invalid filter: {error}") from error


def with_types(value: Mapping[str, Any]) -> Json:
    """A question's value with ids as UUIDs and namespaces as tuples, as the SDK documents it."""
    typed = dict(value)
    for name in IDS:
        if isinstance(typed.get(name), str):
            typed[name] = UUID(typed[name])
    for name in ("namespace", "suffix"):
        if isinstance(typed.get(name), list):
            typed[name] = tuple(typed[name])
    return typed
