"""What must not stand in a log, and how a line looks."""

import pytest
import structlog

from greenroom.logs import redact, render_plain


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "no connection to postgresql://user:pa:ss@host:5432/x",
            "postgresql://user:***@host:5432/x",
        ),
        ("redis://:hunter2@host/0 is away", "redis://:***@host/0"),
        ("{'authorization': 'Bearer abc.def-ghi_jkl='}", "***"),
        ('{"Authorization": "Basic dXNlcjpwYXNz"}', "***"),
        ("header x-api-key: 0123456789abcdef refused", "x-api-key: ***"),
        ("[('cookie', 'session=abcdef')]", "cookie"),
        ("sent Bearer eyJhbGciOi.eyJzdWIi.c2ln to", "Bearer ***"),
        ("COOKIE: session=0123456789", "COOKIE: ***"),
    ],
)
def test_credentials_are_taken_out_of_a_line(line: str, shown: str) -> None:
    """Wherever they stand: in a message, a field, a traceback."""
    cleaned = redact(None, "", line)
    assert shown in cleaned
    for secret in ("pa:ss", "hunter2", "abc.def", "dXNlcjpwYXNz", "0123456789", "abcdef", "eyJh"):
        assert secret not in cleaned


@pytest.mark.parametrize(
    "line",
    [
        "run ended run_id=0199aa status=success seconds=0.1",
        "GET http://127.0.0.1:2024/threads at 12:30:05",
        'File "/srv/app/agent.py", line 3, in node: bearer of news',
        "user@example.com asked for basic things",
    ],
)
def test_other_lines_stay_as_they_are(line: str) -> None:
    """A log that hides too much is no log."""
    assert redact(None, "", line) == line


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"run_id": "0199aa", "attempt": 1, "seconds": 0.25, "is_done": True, "why": None},
        {"a": "two words", "b": "x=y", "c": "line\nbreak", "d": 'a "quote"', "e": "it's", "f": ""},
        {"names": ["a", "b"], "headers": {"x": "y"}},
        {"z": 1, "exception": "Traceback (most recent call last):\nValueError: no"},
    ],
)
def test_a_plain_line_is_structlogs_own(fields: dict[str, object]) -> None:
    """Nobody who reads or parses it sees a difference."""
    head = {"timestamp": "2026-01-01T00:00:00Z", "level": "info", "logger": "greenroom.x"}
    for event in ("run ended", "an event of more than thirty characters, all of which are shown"):
        line = {**head, "event": event, **fields}
        own = structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        )
        assert render_plain(None, "info", dict(line)) == own(None, "info", dict(line))
