"""The `http` block of langgraph.json (langgraph-json.md, 2.4) about routes and headers."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from greenroom.config import Project
from greenroom.errors import ConfigError

GROUPS = {
    "assistants": ("assistants",),
    "threads": ("threads", "states"),
    "runs": ("runs", "joins", "protocol", "crons"),
    "store": ("store",),
    "meta": ("system",),
}
"""What each `disable_` key takes away: names of blueprints. Of `meta`, /ok stays."""
ALSO_KNOWN = ("mcp", "a2a", "ui", "webhooks")
"""Keys of the same form that are not about routes of these."""
CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
"""Headers that no pattern gives away: only their own name does."""
SECRET_WORDS = frozenset(
    {
        *("authorization", "authentication", "auth", "cookie", "cookie2", "credential"),
        *("credentials", "apikey", "jwt", "key", "passwd", "password", "secret", "session"),
        *("signature", "sid", "token"),
    }
)
"""Headers with one of these in their name are in no log, whatever is asked for."""
NO_SECRETS = frozenset({"idempotency-key"})
MIDDLEWARE_FIRST, AUTH_FIRST = "middleware_first", "auth_first"


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """Which request headers are copied, into `config.configurable` or a log. Empty: none."""

    includes: tuple[str, ...] = ()
    excludes: re.Pattern[str] | None = None
    pattern: re.Pattern[str] | None = None
    is_for_logs: bool = False
    """What is secret by its name stays out even where it is named."""

    def choose(self, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Those that are let through, by names in lower case."""
        named = ((name.lower(), value) for name, value in headers)
        return {name: value for name, value in named if self._is_let_through(name)}

    def _is_let_through(self, name: str) -> bool:
        # With an underscore it could be one of the server's own keys.
        if "_" in name or (self.excludes is not None and self.excludes.fullmatch(name)):
            return False
        if self.is_for_logs and is_secret(name):
            return False
        if name in CREDENTIALS:
            return name in self.includes
        return self.pattern is not None and bool(self.pattern.fullmatch(name))


def is_secret(name: str) -> bool:
    """Whether a header, by its name in lower case, may hold what nobody should read in a log."""
    return name not in NO_SECRETS and not SECRET_WORDS.isdisjoint(name.split("-"))


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Which routes are served, and what runs and logs learn of a request."""

    disabled: frozenset[str] = frozenset()
    """Names of blueprints."""
    headers: HeaderRules | None = None
    """None: runs learn of no header."""
    logged: HeaderRules | None = None
    """Which headers stand in log lines; None: none do, and requests have no line of their own."""
    app: str | None = None
    """The owner's own routes: `file.py:app` or `package.module:app`."""
    authenticates_app: bool = False
    """Who calls those routes is asked who they are."""
    middleware_order: str = MIDDLEWARE_FIRST
    """Whether middleware of the application runs before or after callers are known."""


def read_settings(project: Project) -> HttpSettings:
    """Read and check the block.

    Raises:
        ConfigError: one line that names the key.
    """
    block = project.raw.get("http") or {}
    if not isinstance(block, Mapping):
        raise ConfigError('langgraph.json: "http" must be an object')
    for name in (*GROUPS, *ALSO_KNOWN):
        _flag(block, f"disable_{name}")
    disabled = {
        one for name, all_ in GROUPS.items() if block.get(f"disable_{name}") for one in all_
    }
    return HttpSettings(
        frozenset(disabled),
        headers=_headers(block, "configurable_headers"),
        logged=_headers(block, "logging_headers", is_for_logs=True),
        app=_app(block.get("app")),
        authenticates_app=_flag(block, "enable_custom_route_auth"),
        middleware_order=_order(block.get("middleware_order")),
    )


def _flag(block: Mapping[str, Any], key: str) -> bool:
    value = block.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f'langgraph.json: "http.{key}" must be true or false')
    return value


def _app(path: Any) -> str | None:
    if path is None:
        return None
    if not isinstance(path, str) or not all(path.rpartition(":")):
        raise ConfigError('langgraph.json: "http.app" must be "./file.py:app"')
    return path


def _order(value: Any) -> str:
    orders = (MIDDLEWARE_FIRST, AUTH_FIRST)
    if value is not None and value not in orders:
        raise ConfigError(f'langgraph.json: "http.middleware_order" must be {" or ".join(orders)}')
    return MIDDLEWARE_FIRST if value is None else str(value)


def _headers(
    http: Mapping[str, Any], name: str, *, is_for_logs: bool = False
) -> HeaderRules | None:
    block = http.get(name)
    if not block:
        return None
    if not isinstance(block, Mapping):
        raise ConfigError(f'langgraph.json: "http.{name}" must be an object')
    includes, excludes = _globs(block, name, "includes"), _globs(block, name, "excludes")
    return HeaderRules(includes, _compile(excludes), _compile(includes), is_for_logs)


def _globs(block: Mapping[str, Any], name: str, key: str) -> tuple[str, ...]:
    globs = block.get(key) or []
    if not isinstance(globs, list) or not all(isinstance(each, str) for each in globs):
        raise ConfigError(f'langgraph.json: "http.{name}.{key}" must be a list of strings')
    return tuple(each.lower() for each in globs)


def _compile(globs: Iterable[str]) -> re.Pattern[str] | None:
    patterns = [translate(glob) for glob in globs]
    return re.compile("|".join(patterns)) if patterns else None
