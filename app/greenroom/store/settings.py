"""The `store` block of langgraph.json (langgraph-json.md, section 2.1)."""

import math
from dataclasses import dataclass
from typing import Any

from greenroom.config import Project
from greenroom.errors import ConfigError

MAX_DIMS = 16_000
"""pgvector's limit for a stored vector."""
MAX_MINUTES = 2**31 - 1
"""The limit of the column `ttl_minutes`."""


@dataclass(frozen=True, slots=True)
class Index:
    """What makes search by meaning possible."""

    dims: int
    embed: str
    """`./file.py:function`, `package.module:function` or `provider:model`."""
    fields: tuple[str, ...] = ("$",)
    """Paths in a value that are embedded one by one; `$` is the whole value."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How the store behaves. Without a `store` block: no index, and items stay until deleted."""

    index: Index | None = None
    default_ttl_minutes: float | None = None
    """Of items that are put without a ttl; None: they stay."""
    refresh_on_read: bool = True
    sweep_interval_minutes: float = 1.0
    """How often expired rows are deleted; they are invisible at once anyway."""


def read_settings(project: Project) -> StoreSettings:
    """Read and check the block.

    Raises:
        ConfigError: one line that names the key.
    """
    block = _table(project.raw.get("store"), "store")
    ttl = _table(block.get("ttl"), "store.ttl")
    refresh = ttl.get("refresh_on_read", True)
    if not isinstance(refresh, bool):
        raise _wrong("store.ttl.refresh_on_read", "true or false", refresh)
    interval = _minutes(ttl.get("sweep_interval_minutes"), "store.ttl.sweep_interval_minutes")
    return StoreSettings(
        index=_index(block["index"]) if block.get("index") is not None else None,
        default_ttl_minutes=_minutes(ttl.get("default_ttl"), "store.ttl.default_ttl"),
        refresh_on_read=refresh,
        sweep_interval_minutes=interval or StoreSettings().sweep_interval_minutes,
    )


def _index(value: Any) -> Index:
    index = _table(value, "store.index")
    dims, embed, fields = index.get("dims"), index.get("embed"), index.get("fields") or ["$"]
    if isinstance(dims, bool) or not isinstance(dims, int) or not 0 < dims <= MAX_DIMS:
        raise _wrong("store.index.dims", f"a whole number from 1 to {MAX_DIMS}", dims)
    if not isinstance(embed, str) or not all(embed.rpartition(":")):
        raise _wrong("store.index.embed", '"./file.py:function" or "provider:model"', embed)
    if not isinstance(fields, list) or not all(isinstance(f, str) and f for f in fields):
        raise _wrong("store.index.fields", "a list of paths", fields)
    return Index(dims, embed, tuple(dict.fromkeys(fields)))


def _table(value: Any, key: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(key, "an object", value)
    return value


def _minutes(value: Any, key: str) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 < value <= MAX_MINUTES:
        raise _wrong(key, "a number of minutes above 0", value)
    return float(value)


def _wrong(key: str, expected: str, found: Any) -> ConfigError:
    return ConfigError(f'langgraph.json: "{key}" must be {expected}, not {found!r}')
