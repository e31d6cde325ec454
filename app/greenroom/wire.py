"""JSON as it crosses the wire: tolerant of hostile text, never failing on a graph's output."""

import json
import math
import re
from collections.abc import Callable
from typing import Any, Never

import orjson

# Postgres stores neither in text; the reference answers both with U+FFFD (observed.md, section 1).
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
NUMBERS = bytes(
    ord("0") if byte in b"0123456789" else ord(" ") if byte in b" [" else byte
    for byte in range(256)
)
LONG_NUMBERS = (b" " + b"0" * 19, b" -" + b"0" * 19)
"""In the text of a JSONB, once `NUMBERS` has made all digits alike; or in a string of it."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

MAX_DEPTH = 200
"""Levels of nesting that a request may have; orjson writes 254."""


def dumps(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """Encode to compact UTF-8 JSON. Lone surrogates become U+FFFD, NaN becomes null.

    Raises:
        TypeError: `value` holds something that `default` does not turn into JSON.
    """
    try:
        return orjson.dumps(value, default, orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # orjson refuses lone surrogates and integers beyond 64 bits with the same error.
        def encode_leaf(leaf: Any) -> Any:
            try:
                return orjson.loads(orjson.dumps(leaf, option=orjson.OPT_NON_STR_KEYS))
            except TypeError:
                if default is None:
                    raise
                return clean(default(leaf))

        text = json.dumps(
            clean(value), default=encode_leaf, ensure_ascii=False, separators=(",", ":")
        )
        return text.encode()


def dumps_clean(value: Any, default: Callable[[Any], Any]) -> bytes:
    """As `dumps`, of what JSONB can hold: NUL becomes U+FFFD, too."""
    body = dumps(value, default)
    return dumps(clean(value), default) if b"\\u0000" in body else body


def loads(body: bytes | str) -> Any:
    """Decode JSON; NUL and lone surrogates come out as U+FFFD.

    Raises:
        ValueError: not JSON, not UTF-8, NaN or Infinity, or nested beyond the interpreter's depth.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        # orjson refuses escaped lone surrogates; the standard decoder lets them through to `clean`.
        return _cleaned(lambda: json.loads(body, parse_constant=_refuse_constant))
    marker = b"\\u0000" if isinstance(body, bytes) else "\\u0000"
    return _cleaned(lambda: value) if marker in body else value  # type: ignore[operator]


def loads_jsonb(body: bytes | str) -> Any:
    """Decode what Postgres writes of a JSONB; integers of any size stay integers.

    Raises:
        ValueError: not JSON.
    """
    data = body.encode() if isinstance(body, str) else body
    # orjson makes floats of integers beyond 64 bits. A space or a bracket stands before a number.
    # Not by a regular expression, which takes 20 times as long as all the rest.
    numbers = b" " + data.translate(NUMBERS)
    has_long = any(number in numbers for number in LONG_NUMBERS)
    return json.loads(data) if has_long else orjson.loads(data)


def is_too_deep(value: Any, body: bytes) -> bool:
    """Tell whether JSON nests deeper than we could write it again.

    A body with fewer brackets cannot; the others are walked level by level, never recursively.
    """
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return False
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
    return depth > MAX_DEPTH


def clean(value: Any) -> Any:
    """Copy JSON data without what Postgres or JSON cannot hold.

    NUL and lone surrogates become U+FFFD, NaN and infinities null.
    """
    match value:
        case str():
            return UNSTORABLE.sub(REPLACEMENT, value)
        case dict():
            return {clean(key): clean(item) for key, item in value.items()}
        case list() | tuple():
            return [clean(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def _cleaned(read: Callable[[], Any]) -> Any:
    """Clean what `read` gives. Both go down level by level, and depth is the sender's choice."""
    try:
        return clean(read())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
