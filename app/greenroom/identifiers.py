"""Ids: time-ordered uuids for rows, stable uuids for the assistants of langgraph.json."""

import os
import time
from uuid import UUID, uuid5

# Observed on the reference server; not one of RFC 9562's own namespaces (b821, not 9dad-b811).
ASSISTANT_NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")


def new_id() -> UUID:
    """Make a UUIDv7 whose order is that of creation to a quarter of a microsecond.

    Source: RFC 9562, section 5.7, with the sub-millisecond fraction of method 3 in `rand_a`,
    so that ids of two processes on one clock sort as they were made.
    """
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") >> 2
    return UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | random)


def system_assistant_id(graph_id: str) -> UUID:
    """Name the assistant that every server makes for a graph (http.md, default assistants)."""
    return uuid5(ASSISTANT_NAMESPACE, graph_id)
