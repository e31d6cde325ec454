"""What is measured of a server that speaks HTTP. Each scenario returns its figures by name."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from benchmarks.idle import idle, start
from benchmarks.load import Load
from benchmarks.loop import Figures
from benchmarks.reads import blocking, state
from benchmarks.runs import slots, stateless, throughput, wait
from benchmarks.streams import fan_out, replay, stream, tokens


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to measure."""

    measure: Callable[[Load], Coroutine[Any, Any, Figures]]
    has_floor: bool = False
    """It means something without a server, too: see floor.py."""
    is_alone: bool = False
    """It tells about a process that has done nothing yet, on data that it has left, and about its
    memory: who shares its libraries must be down. Else all servers are up, and take turns."""
    has_slots: bool = False
    """It wants a slot for each of its runs."""


SCENARIOS = {
    "start": Scenario(start, is_alone=True),
    "throughput": Scenario(throughput, has_floor=True),
    "wait": Scenario(wait, has_floor=True),
    "stateless": Scenario(stateless),
    "stream": Scenario(stream, has_floor=True),
    "tokens": Scenario(tokens, has_floor=True),
    "fan_out": Scenario(fan_out),
    "replay": Scenario(replay),
    "state": Scenario(state, has_floor=True),
    "blocking": Scenario(blocking),
    "idle": Scenario(idle, has_floor=True, is_alone=True),
    "slots": Scenario(slots, has_floor=True, is_alone=True, has_slots=True),
}
"""In the order of a round: what needs another process comes last."""
