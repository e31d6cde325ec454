"""Texts that Postgres parses and plans once for a connection, not for each execution.

Planning takes longer than executing them: a run's admission, claim and end each touch a few rows.
psycopg2 has no prepared statements of its own, so they are SQL's (PREPARE, EXECUTE).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from sqlalchemy import TextClause, text
from sqlalchemy.dialects import postgresql

LIFE_SECONDS: Final = 5.0
"""A plan that was made for a small table must not serve a large one for long."""
GENERIC_PLANS: Final = "-c plan_cache_mode=force_generic_plan"
"""An option for connections: plan once, not for the first five executions each."""
NUMBERED = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

NAMES: Final[dict[TextClause, str]] = {}
"""What texts are called in `pg_stat_activity`, where EXECUTE shows nothing else of them."""

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Part:
    """One statement of a text."""

    name: str
    prepare: str
    execute: str
    """With psycopg2's placeholders, in the order in which PREPARE numbers them."""


class PreparedText:
    """One text, which may be several statements: they travel, and commit, together.

    Parameters need a type that follows from where they stand: `CAST` where they stand alone.
    """

    def __init__(self, statement: TextClause) -> None:
        name = NAMES.get(statement, "greenroom")
        parts = (part.strip() for part in statement.text.split(";"))
        self.parts = tuple(_read(name, part) for part in parts if part)
        self.make_row: Callable[[Sequence[Any]], Any] | None = None
        """Gives what the last part returns its attributes; None before that is known."""

    def sql(self, plans: dict[str, float], now: float) -> str:
        """What to send on a connection.

        Args:
            plans: until when each plan that the connection has may be used, by the monotonic
                clock. Those that this will make are added: a connection on which it fails is lost.
            now: by the same clock.
        """
        return ";\n".join((*self._preparations(plans, now), *(part.execute for part in self.parts)))

    def _preparations(self, plans: dict[str, float], now: float) -> Iterator[str]:
        for part in self.parts:
            ends_at = plans.get(part.name)
            if ends_at is None or ends_at < now:
                if ends_at is not None:
                    yield f"DEALLOCATE {part.name}"
                plans[part.name] = now + LIFE_SECONDS
                yield part.prepare


def _read(prefix: str, part: str) -> Part:
    compiled = text(part).compile(dialect=NUMBERED)
    names: list[str] = list(compiled.positiontup or ())
    name = f"{prefix}_{next(_numbers)}"
    values = f"({', '.join(f'%({one})s' for one in names)})" if names else ""
    return Part(name, _escaped(f"PREPARE {name} AS {compiled}"), f"EXECUTE {name}{values}")


def _escaped(sql: str) -> str:
    return sql.replace("%", "%%")
