"""The smallest application that there is."""

from collections.abc import Iterable
from typing import Any

BODY = b'{"ok":true}'
HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))]


def answer(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Say that all is well, whatever is asked."""
    start_response("200 OK", HEADERS)
    return (BODY,)
