"""How long threads live: `checkpointer.ttl` of langgraph.json, and the sweep that applies it."""

import time
from dataclasses import dataclass
from typing import Any

from greenroom.config import Project
from greenroom.database.engine import Database
from greenroom.errors import ConfigError
from greenroom.threads import service
from greenroom.threads.queries import Ttl

KEY = 'langgraph.json: "checkpointer.ttl'
STRATEGIES = ("delete", "keep_latest")
DEFAULT_INTERVAL_MINUTES = 5.0
DEFAULT_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class TtlSettings:
    """What the owner says about threads that nobody gave a ttl of their own."""

    minutes: float | None = None
    """None: such threads live for ever."""
    strategy: str = "delete"
    sweep_interval_minutes: float = DEFAULT_INTERVAL_MINUTES
    sweep_limit: int = DEFAULT_LIMIT


def read_ttl(project: Project) -> TtlSettings:
    """Read and check the block.

    Raises:
        ConfigError: a key has the wrong type or range.
    """
    block = (project.raw.get("checkpointer") or {}).get("ttl") or {}
    if not isinstance(block, dict):
        raise ConfigError(f'{KEY}" must be an object')
    strategy = block.get("strategy", "delete")
    if strategy not in STRATEGIES:
        raise ConfigError(f'{KEY}.strategy" must be one of {", ".join(STRATEGIES)}')
    return TtlSettings(
        minutes=_positive(block, "default_ttl", None),
        strategy=strategy,
        sweep_interval_minutes=_positive(block, "sweep_interval_minutes", DEFAULT_INTERVAL_MINUTES)
        or DEFAULT_INTERVAL_MINUTES,
        sweep_limit=int(_positive(block, "sweep_limit", DEFAULT_LIMIT) or DEFAULT_LIMIT),
    )


def default_ttl(project: Project) -> Ttl | None:
    """The ttl of a new thread that asks for none."""
    settings = read_ttl(project)
    return Ttl(settings.minutes, settings.strategy) if settings.minutes else None


def _positive(block: dict[str, Any], name: str, default: float | None) -> float | None:
    value = block.get(name, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f'{KEY}.{name}" must be a number above 0')
    return float(value)


class ThreadSweep:
    """One process's share: at most `sweep_limit` threads a round, a pause once none is left."""

    def __init__(self, project: Project) -> None:
        self.settings = read_ttl(project)
        self._next = time.monotonic()

    def run(self, database: Database) -> None:
        """Apply the ttl of expired threads if it is time to."""
        if time.monotonic() < self._next:
            return
        limit = min(self.settings.sweep_limit, service.SWEEP_LIMIT)
        if service.sweep_expired(database, limit) < limit:
            self._next = time.monotonic() + self.settings.sweep_interval_minutes * 60
