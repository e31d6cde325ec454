"""Keeps checkpoint ids growing along a thread, whatever clock they were made by.

The newest checkpoint of a thread is the one with the greatest id, and langgraph makes ids from the
clock of the machine. A process whose clock is behind that of the last writer would write its
checkpoints under older ids, and the thread would not show them. As Lamport has it: who has seen an
id makes only greater ones.
"""

from uuid import UUID

from langgraph.checkpoint.base import id as ids

TIMED = 6
"""The version of UUID that begins with the time."""


def observe(checkpoint_id: str) -> None:
    """Make every id of this process from now on greater than this one."""
    seen = ids.UUID(checkpoint_id) if is_timed(checkpoint_id) else None
    last: int = getattr(ids, "_last_v6_timestamp", None) or 0
    if seen is not None and seen.time > last:
        # What langgraph's uuid6 looks at so that two ids of one process never tie.
        # tests/faults/test_clocks.py holds it to that.
        ids._last_v6_timestamp = seen.time  # type: ignore[assignment] # noqa: SLF001


def is_timed(checkpoint_id: str) -> bool:
    """Whether an id is one of langgraph's; savers take any text."""
    try:
        return UUID(checkpoint_id).version == TIMED
    except ValueError:
        return False
