"""Paths into a thread, such as `values.log[-1]` (http.md, section 2, extract)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

ROOTS = ("config", "interrupts", "metadata", "values")
PATH = re.compile(r"(?P<root>\w+)(?P<steps>(?:\.[^.\[\]]+|\[-?\d{1,9}\])*)")
STEP = re.compile(r"\.([^.\[\]]+)|\[(-?\d+)\]")

Path = tuple[str | int, ...]


def parse_path(path: str) -> Path:
    """Read a path into its steps: a name for a key, a number for a place in a list.

    Raises:
        ValueError: the path begins elsewhere, or is not made of `.key` and `[n]`.
    """
    found = PATH.fullmatch(path)
    root = found["root"] if found else path.partition(".")[0].partition("[")[0]
    if root not in ROOTS:
        raise ValueError(f"Extract path '{path}' must start with one of: {', '.join(ROOTS)}")
    if not found:
        raise ValueError(f"Extract path '{path}' must be made of .key and [n]")
    steps = (int(index) if index else key for key, index in STEP.findall(found["steps"]))
    return (root, *steps)


def follow(path: Path, data: Any) -> Any:
    """What lies at the end of a path; None where the data do not go that far."""
    for step in path:
        if isinstance(step, str):
            data = data.get(step) if isinstance(data, Mapping) else None
        elif isinstance(data, Sequence) and not isinstance(data, str):
            data = data[step] if -len(data) <= step < len(data) else None
        else:
            return None
    return data
