"""The `auth` block of langgraph.json (langgraph-json.md, 2.3), and the settings beside it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from greenroom.config import Config
from greenroom.errors import ConfigError

DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
SHORTEST_KEY = 16
"""Characters; a shorter one can be guessed."""
LONGEST_TTL_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Which answers of the authenticate handler are used again."""

    headers: tuple[str, ...]
    """Lower case; requests that agree in all of them are by the same caller."""
    ttl_seconds: float
    max_size: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that the owner has given out: its name, and what is left of it."""

    name: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """How callers are known. Neither path nor keys: everybody may do everything."""

    path: str | None = None
    """`file.py:auth` or `package.module:auth`."""
    cache: CacheSettings | None = None
    keys: tuple[ApiKey, ...] = ()
    denies_unhandled: bool = False
    """What no handler covers is refused, instead of open to every authenticated caller."""
    openapi: Mapping[str, Any] = field(default_factory=dict)


def read_settings(config: Config) -> AuthSettings:
    """Read and check everything about authentication.

    Raises:
        ConfigError: one line that names the key.
    """
    block = config.project.raw.get("auth") or {}
    if not isinstance(block, Mapping):
        raise ConfigError('langgraph.json: "auth" must be an object')
    path, openapi = block.get("path"), block.get("openapi") or {}
    if block and (not isinstance(path, str) or ":" not in path):
        raise ConfigError('langgraph.json: "auth.path" must be "./file.py:auth"')
    if not isinstance(openapi, Mapping):
        raise ConfigError('langgraph.json: "auth.openapi" must be an object')
    keys = read_keys(config.api_keys)
    if path and keys:
        raise ConfigError(
            "GREENROOM_API_KEYS and auth.path are both set: keep the keys, or let the auth "
            "handler check them"
        )
    return AuthSettings(
        path=path,
        cache=_cache(block.get("cache")),
        keys=keys,
        denies_unhandled=config.auth_default == "DENY",
        openapi=openapi,
    )


def describe_security(config: Config) -> Mapping[str, Any]:
    """What the OpenAPI document shall say about authentication: `auth.openapi`, or the keys."""
    settings = read_settings(config)
    if not settings.keys:
        return settings.openapi
    scheme = {"type": "apiKey", "in": "header", "name": "x-api-key"}
    return {"securitySchemes": {"apiKey": scheme}, "security": [{"apiKey": []}]}


def read_keys(text: str) -> tuple[ApiKey, ...]:
    """Read `name=key` entries with commas between; a key may be `sha256:` and its digest in hex.

    Raises:
        ConfigError: names the entry by its number, never by its text.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    return tuple(_key(number, entry) for number, entry in enumerate(entries, 1))


def _key(number: int, entry: str) -> ApiKey:
    name, has_name, key = entry.partition("=")
    if not has_name:
        name, key = f"key-{number}", entry
    if found := DIGEST.fullmatch(key):
        return ApiKey(name, bytes.fromhex(found[1]))
    if len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"GREENROOM_API_KEYS: entry {number} has fewer than {SHORTEST_KEY} characters"
        )
    return ApiKey(name, hash_key(key))


def hash_key(key: str) -> bytes:
    """What is kept of a key. Not slow on purpose: keys are long and random, not passwords."""
    return hashlib.sha256(key.encode()).digest()


def _cache(block: Any) -> CacheSettings | None:
    if block is None:
        return None
    if not isinstance(block, Mapping):
        raise ConfigError('langgraph.json: "auth.cache" must be an object')
    names = block.get("cache_keys")
    if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
        raise ConfigError('langgraph.json: "auth.cache.cache_keys" must be a list of header names')
    ttl, size = block.get("ttl_seconds", 60), block.get("max_size", 1000)
    if not isinstance(ttl, int | float) or not 0 < ttl <= LONGEST_TTL_SECONDS:
        raise ConfigError(
            'langgraph.json: "auth.cache.ttl_seconds" must be more than 0, 24 h at most'
        )
    if not isinstance(size, int) or size < 1:
        raise ConfigError('langgraph.json: "auth.cache.max_size" must be 1 or more')
    return CacheSettings(tuple(name.lower() for name in names), float(ttl), size)
