"""The statements of queries.sql by name."""

import re
from importlib.resources import files

from sqlalchemy import TextClause, text

from greenroom.database.prepared import NAMES

HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(resource: str) -> dict[str, TextClause]:
    """Read an SQL file of this package: `-- name: x`, then a statement until the next name."""
    source = files(__package__).joinpath(resource).read_text(encoding="utf-8")
    _preamble, *parts = HEADING.split(source)
    found = {
        name: text(_without_comments(body))
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
    NAMES.update((statement, name) for name, statement in found.items())
    return found


def _without_comments(body: str) -> str:
    """Comments are for readers; a colon in one would look like a parameter."""
    lines = (line for line in body.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(lines).strip().rstrip(";")


STATEMENTS = load("queries.sql")


def together(*names: str) -> TextClause:
    """Several statements in one round trip and one implicit transaction; the last one answers."""
    statement = text(";\n".join(STATEMENTS[name].text for name in names))
    NAMES[statement] = names[-1]
    return statement


def with_first(name: str, first: str) -> TextClause:
    """A statement that begins by taking a lock, with another in the lock's place that takes it."""
    _lock, rest = STATEMENTS[name].text.split(";")
    statement = text(f"{STATEMENTS[first].text};\n{rest}")
    NAMES[statement] = name
    return statement


FINISH_WITH_CHECKPOINTS = with_first("finish_run_if_owned", "write_checkpoints")
