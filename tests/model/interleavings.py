"""Every interleaving of a small model, breadth first, and the shortest way to a fault.

A model is explored to its last state: what is not found does not exist, in a model of this size.
"""

import time
from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Step(NamedTuple):
    """One thing that may happen next."""

    label: str
    state: Hashable
    is_needed: bool = True
    """It happens by itself sooner or later: neither a fault nor somebody's wish."""
    broken: str | None = None
    """The property that this very step breaks."""


class Model(Protocol):
    """What may happen, from where, and what must never be."""

    def initial(self) -> Hashable:
        """The one state in which everything begins."""

    def steps(self, state: Hashable) -> Iterable[Step]:
        """All that may happen next. States must be canonical: equal ones compare equal."""

    def broken(self, state: Hashable) -> str | None:
        """The property that a state breaks."""

    def is_over(self, state: Hashable) -> bool:
        """Everything has come to its end: from everywhere such a state must be within reach."""

    def tell(self, path: Sequence[Hashable], broken: str | None) -> Iterator[str]:
        """What happened from state to state; with `broken`, and in the step that broke it."""


@dataclass(frozen=True)
class Report:
    """What an exploration found."""

    states: int
    steps: int
    depth: int
    """Of the state that is farthest from the first."""
    seconds: float
    broken: str | None = None
    trace: tuple[str, ...] = ()
    """The shortest way to the fault."""


class Explorer:
    """One exploration. States are numbered as they are found."""

    def __init__(self, model: Model, liveness: str) -> None:
        self.model = model
        self.liveness = liveness
        """The property that is broken where no end is within reach."""
        self.numbers: dict[Hashable, int] = {}
        self.states: list[Hashable] = []
        self.parents = array("l")
        self.depths = array("l")
        self.sources = array("l")
        self.targets = array("l")
        """Needed steps alone: liveness may count on no others."""
        self.steps = 0

    def run(self) -> Report:
        """Explore until a property breaks, or to the end."""
        began = time.monotonic()
        broken = self._search() or self._find_dead_end()
        seconds = time.monotonic() - began
        return Report(len(self.states), self.steps, max(self.depths), seconds, *(broken or ()))

    def _search(self) -> tuple[str, tuple[str, ...]] | None:
        self._number(self.model.initial(), -1)
        current = 0
        while current < len(self.states):
            for step in self.model.steps(self.states[current]):
                self.steps += 1
                if step.broken is not None:
                    return step.broken, self._trace(current, step.broken)
                target = self.numbers.get(step.state)
                if target is None:
                    target = self._number(step.state, current)
                    if broken := self.model.broken(step.state):
                        return broken, self._trace(target)
                if step.is_needed and target != current:
                    self.sources.append(current)
                    self.targets.append(target)
            current += 1
        return None

    def _number(self, state: Hashable, parent: int) -> int:
        number = self.numbers[state] = len(self.states)
        self.states.append(state)
        self.parents.append(parent)
        self.depths.append(0 if parent < 0 else self.depths[parent] + 1)
        return number

    def _find_dead_end(self) -> tuple[str, tuple[str, ...]] | None:
        """Go back from the ends: a state that is not met has none before it."""
        has_end = bytearray(len(self.states))
        open_states = [
            number for number, state in enumerate(self.states) if self.model.is_over(state)
        ]
        for number in open_states:
            has_end[number] = 1
        before = self._reversed()
        while open_states:
            for number in before(open_states.pop()):
                if not has_end[number]:
                    has_end[number] = 1
                    open_states.append(number)
        dead = has_end.find(0)
        return None if dead < 0 else (self.liveness, self._trace(dead))

    def _reversed(self) -> "Before":
        """The needed steps by their targets, in two flat arrays."""
        starts = array("l", bytes(8 * (len(self.states) + 1)))
        for target in self.targets:
            starts[target + 1] += 1
        for number in range(len(self.states)):
            starts[number + 1] += starts[number]
        places = array("l", starts)
        ordered = array("l", bytes(8 * len(self.sources)))
        for source, target in zip(self.sources, self.targets, strict=True):
            ordered[places[target]] = source
            places[target] += 1
        return Before(starts, ordered)

    def _trace(self, number: int, broken: str | None = None) -> tuple[str, ...]:
        path = []
        while number >= 0:
            path.append(self.states[number])
            number = self.parents[number]
        return tuple(self.model.tell(path[::-1], broken))


@dataclass(frozen=True)
class Before:
    """Which states lead to a state."""

    starts: "array[int]"
    sources: "array[int]"

    def __call__(self, number: int) -> "array[int]":
        return self.sources[self.starts[number] : self.starts[number + 1]]
