"""What both sides of `http.app` know: how requests are passed on, and back. Without user code."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from greenroom import wire

REQUEST_HEADER = "greenroom-request"
"""On requests that are passed on: what is known of them beside their headers. Never a client's."""
MAX_HEAD_BYTES = 4 * 1024 * 1024
"""Of those requests: above what gunicorn lets through and what a handler tells of a caller."""
PIECE_CHARACTERS = 4096
"""Of a header on the way back to the web process, whose server takes no more than 8190."""
HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "expect", "content-length", REQUEST_HEADER),
    }
)
"""Headers of one connection alone (RFC 9110, 7.6.1), and those that are written anew."""
DROPPED = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "trailer"}
    | {"date", "server"}
)
"""The same of answers, and those that gunicorn writes."""
PATH_SAFE = "/!$&'()*+,;=:@~-._"


def pack(told: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Write what is known of a request as headers, however much it is and in whatever letters."""
    text = b64encode(wire.dumps(told))
    pieces = (text[at : at + PIECE_CHARACTERS] for at in range(0, len(text), PIECE_CHARACTERS))
    return [(REQUEST_HEADER.encode(), piece) for piece in pieces]


def unpack(value: str) -> dict[str, Any]:
    """Read such headers, which servers join by commas."""
    told: dict[str, Any] = wire.loads(b64decode(value.replace(",", "")))
    return told
