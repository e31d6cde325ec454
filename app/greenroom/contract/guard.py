"""The door: who makes a request, and what that caller may do, before its view runs.

Without authentication nothing happens here: views find ANYONE, and no statement filters.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Flask, g, request

from greenroom.auth.cache import CallerCache
from greenroom.auth.caller import HIDDEN, Arguments, Caller
from greenroom.auth.keys import HEADER, identify
from greenroom.auth.questions import Access
from greenroom.auth.settings import AuthSettings
from greenroom.contract.body import read_body
from greenroom.contract.inner import inner_request
from greenroom.database.scope import Scope
from greenroom.errors import Refused
from greenroom.graphs.client import GraphsClient
from greenroom.logs import get_logger

log = get_logger(__name__)


class Guard:
    """Knows callers by their keys or by the owner's handlers, which the graphs process runs."""

    def __init__(self, settings: AuthSettings, graphs: GraphsClient) -> None:
        self._settings = settings
        self._graphs = graphs
        self._cache = CallerCache(settings.cache) if settings.cache else None
        self._rules: dict[str, Any] | None = None

    @property
    def has_keys(self) -> bool:
        """Callers are known by the built-in keys: each may do everything."""
        return bool(self._settings.keys)

    @property
    def denies_unhandled(self) -> bool:
        """What no handler covers is refused."""
        return self._settings.denies_unhandled

    def identify(self) -> Caller:
        """Who makes this request.

        Raises:
            Refused: nobody that we know.
            GraphsUnavailable: nobody can tell at the moment.
        """
        if (inner := inner_request()) is not None and inner.caller is not None:
            return inner.caller
        if self._settings.keys:
            return identify(self._settings.keys, request.headers.get(HEADER))
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        key = self._cache.key(dict(headers)) if self._cache else None
        known = self._cache.find(key) if self._cache else None
        if known is not None:
            return known
        wants_body = self.rules()["wants_body"]
        answer = self._graphs.authenticate(
            method=request.method,
            path=request.path,
            path_params=request.view_args or {},
            query_params=list(request.args.items(multi=True)),
            headers=headers,
            body=read_body().decode("utf-8", "replace") if wants_body else None,
        )
        user = allowed(answer)["user"]
        caller = Caller(user["identity"], user, tuple(user["permissions"]))
        if self._cache:
            self._cache.keep(key, caller)
        return caller

    def authorise(self, caller: Caller, access: Access, arguments: Arguments) -> Caller:
        """Ask everything that a route asks, in one call; changes take effect in `arguments`.

        Raises:
            Refused: a handler refuses, fails, or says what cannot be understood.
        """
        if self._settings.keys or not access.asks:
            return caller
        filters: list[tuple[str, str | None]] = []
        questions = []
        for question in access.build(arguments):
            if self.is_covered(question.resource, question.action):
                questions.append(question)
            elif self._settings.denies_unhandled:
                if not question.is_soft:
                    raise Refused(
                        403, f"Forbidden: no handler covers {question.resource}.{question.action}"
                    )
                filters.append((question.resource, HIDDEN))
        if not questions:
            return replace(caller, filters=caller.with_filters(filters)) if filters else caller
        asked = [
            {"resource": each.resource, "action": each.action, "value": each.value}
            for each in questions
        ]
        answers = self._graphs.authorise(caller.user or {}, asked)
        values = {}
        for question, answer in zip(questions, answers, strict=True):
            if question.is_soft and "refused" in answer:
                filters.append((question.resource, HIDDEN))
                continue
            value = allowed(answer)["value"]
            filters.append((question.resource, answer["filter"]))
            values[question.resource, question.action] = value
            if question.apply is not None:
                question.apply(arguments, value)
        return replace(caller, filters=caller.with_filters(filters), values=values)

    def rules(self) -> dict[str, Any]:
        """What the owner's handlers want and cover; asked once."""
        if self._rules is None:
            self._rules = self._graphs.auth_rules()
        return self._rules

    def is_covered(self, resource: str, action: str) -> bool:
        """Whether a handler answers such questions."""
        handlers = {tuple(pair) for pair in self.rules()["handlers"]}
        pairs = {(resource, action), (resource, "*"), ("*", action), ("*", "*")}
        return bool(handlers & pairs)


def allowed(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer itself.

    Raises:
        Refused: it is a refusal.
    """
    if refused := answer.get("refused"):
        raise Refused(refused["status"], refused["detail"], refused["headers"])
    return answer


def caller() -> Caller:
    """Who makes this request, and what was found about it."""
    found: Caller = g.caller
    return found


def scope(resource: str) -> Scope:
    """Which rows of a resource this request may see and change."""
    return caller().scope(resource)


def list_uncovered(app: Flask, guard: Guard) -> list[str]:
    """The routes that ask what no handler answers: `GET /threads/<thread_id>`."""
    found = []
    for rule in app.url_map.iter_rules():
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        asks = contract.access.asks if contract is not None else ()
        if any(not guard.is_covered(*pair) for pair in asks):
            methods = ",".join(sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}))
            found.append(f"{methods} {rule.rule}")
    return sorted(found)
