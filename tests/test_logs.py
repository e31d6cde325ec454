"""What must not stand in a log."""

import pytest

from greenroom.logs import redact


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
