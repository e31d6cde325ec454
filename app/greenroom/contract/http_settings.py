"""The `http` block of langgraph.json (langgraph-json.md, 2.4) about the API's own routes."""

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
NOT_SERVED = ("http.app",)
"""Keys of langgraph.json that lead to code of the owner's which is not run yet."""
ALSO_KNOWN = ("mcp", "a2a", "ui", "webhooks")
"""Keys of the same form that are not about routes of these."""
CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
"""Headers that no pattern gives away: only their own name does."""


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """Which request headers are copied into `config.configurable` of runs. Empty: none."""

    includes: tuple[str, ...] = ()
    excludes: re.Pattern[str] | None = None
    pattern: re.Pattern[str] | None = None

    def choose(self, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Those that are let through, by names in lower case."""
        named = ((name.lower(), value) for name, value in headers)
        return {name: value for name, value in named if self._is_let_through(name)}

    def _is_let_through(self, name: str) -> bool:
        # With an underscore it could be one of the server's own keys.
        if "_" in name or (self.excludes is not None and self.excludes.fullmatch(name)):
            return False
        if name in CREDENTIALS:
            return name in self.includes
        return self.pattern is not None and bool(self.pattern.fullmatch(name))


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Which routes are served, and what runs learn of a request."""

    disabled: frozenset[str] = frozenset()
    """Names of blueprints."""
    headers: HeaderRules | None = None
    """None: runs learn of no header."""


def read_settings(project: Project) -> HttpSettings:
    """Read and check the block.

    Raises:
        ConfigError: one line that names the key.
    """
    block = project.raw.get("http") or {}
    if not isinstance(block, Mapping):
        raise ConfigError('langgraph.json: "http" must be an object')
    for name in (*GROUPS, *ALSO_KNOWN):
        if not isinstance(block.get(f"disable_{name}", False), bool):
            raise ConfigError(f'langgraph.json: "http.disable_{name}" must be true or false')
    disabled = {
        one for name, all_ in GROUPS.items() if block.get(f"disable_{name}") for one in all_
    }
    return HttpSettings(frozenset(disabled), _headers(block.get("configurable_headers")))


def list_not_served(project: Project) -> list[str]:
    """What the file asks for, and does not get."""
    return [
        key
        for key in NOT_SERVED
        if isinstance(block := project.raw.get(key.partition(".")[0]), Mapping)
        and block.get(key.partition(".")[2])
    ]


def _headers(block: Any) -> HeaderRules | None:
    if not block:
        return None
    if not isinstance(block, Mapping):
        raise ConfigError('langgraph.json: "http.configurable_headers" must be an object')
    includes, excludes = _globs(block, "includes"), _globs(block, "excludes")
    return HeaderRules(includes, _compile(excludes), _compile(includes))


def _globs(block: Mapping[str, Any], key: str) -> tuple[str, ...]:
    globs = block.get(key) or []
    if not isinstance(globs, list) or not all(isinstance(each, str) for each in globs):
        raise ConfigError(
            f'langgraph.json: "http.configurable_headers.{key}" must be a list of strings'
        )
    return tuple(each.lower() for each in globs)


def _compile(globs: Iterable[str]) -> re.Pattern[str] | None:
    patterns = [translate(glob) for glob in globs]
    return re.compile("|".join(patterns)) if patterns else None
