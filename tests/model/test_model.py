"""The model of runs keeps every property and needs each of its guards; the explorer can see."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import pytest
from check_model import MUTANTS, QUICK, Mutant, describe, explore, lines
from interleavings import Explorer, Step
from run_model import PROPERTIES, Rules, RunModel


@pytest.mark.parametrize("model", QUICK, ids=["queue", "stream"])
def test_no_interleaving_breaks_a_property(model: RunModel) -> None:
    """To the last state, and what is printed is what was explored."""
    report = explore(model)
    assert report.broken is None, "\n".join(report.trace)
    assert report.states > 10_000
    assert f" {report.states:,} states, {report.steps:,} steps, " in describe(model, report)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_without_a_guard_something_goes_wrong(mutant: Mutant) -> None:
    """The shortest way there is told, and with the guard in place it leads nowhere."""
    report = explore(mutant.weakened())
    assert report.broken == mutant.costs
    assert report.trace
    assert explore_along(mutant.model, report.trace) != mutant.costs


def explore_along(model: RunModel, trace: Sequence[str]) -> str | None:
    """What the steps of a trace break, as far as they can be taken."""
    state = model.initial()
    for label in trace:
        step = next((one for one in model._marked(state) if one.label == label), None)
        if step is None:
            return None
        if broken := step.broken or model.broken(step.state):
            return broken
        state = step.state
    return None


def test_each_guard_and_each_property_is_tried() -> None:
    """Who adds one to the rules adds its mutant."""
    assert {mutant.guard for mutant in MUTANTS} == {field.name for field in fields(Rules)}
    assert {mutant.costs for mutant in MUTANTS} == set(PROPERTIES)


def test_the_command_tells_properties_sizes_and_counterexamples() -> None:
    """What `make model` prints, for the smallest of models."""
    tiny = RunModel(workers=1, runs=1, has_bells=False, has_reader=False)
    told = "\n".join(lines((tiny,)))
    assert all(words in told for words in PROPERTIES)
    assert describe(tiny, explore(tiny)).split(" s", 1)[0] in told
    assert "no terminal first:" in told


@dataclass(frozen=True)
class Lifts:
    """Two numbers that may grow to 3 each; from (3, 3) one may fall back to the start."""

    forbidden: tuple[int, int] | None = None
    end: tuple[int, int] = (3, 3)
    is_willing: bool = True
    """Whether the numbers grow by themselves."""

    def initial(self) -> tuple[int, int]:
        return (0, 0)

    def steps(self, state: tuple[int, int]) -> Iterator[Step]:
        left, right = state
        if left < 3:
            yield Step("left", (left + 1, right), self.is_willing)
        if right < 3:
            yield Step("right", (left, right + 1), self.is_willing)
        if state == (3, 3):
            yield Step("back", (0, 0), is_needed=False)

    def broken(self, state: tuple[int, int]) -> str | None:
        return "forbidden" if state == self.forbidden else None

    def is_over(self, state: tuple[int, int]) -> bool:
        return state == self.end

    def tell(self, path: Sequence[tuple[int, int]], broken: str | None) -> Iterator[str]:
        return map(str, path)


def test_the_explorer_sees_every_state_once() -> None:
    """Sixteen states, 24 steps up and one back, the farthest six steps away."""
    report = Explorer(Lifts(), "stuck").run()
    assert (report.states, report.steps, report.depth, report.broken) == (16, 25, 6, None)


def test_the_explorer_takes_the_shortest_way_to_a_fault() -> None:
    """As many steps as there are ups."""
    report = Explorer(Lifts(forbidden=(2, 1)), "stuck").run()
    assert report.broken == "forbidden"
    assert len(report.trace) == 4
    assert report.trace[-1] == "(2, 1)"


def test_the_explorer_finds_a_state_without_a_way_to_the_end() -> None:
    """Past (2, 2) on either side there is no way back but by a step that need not happen."""
    report = Explorer(Lifts(end=(2, 2)), "stuck").run()
    assert report.broken == "stuck"
    assert report.trace == ("(0, 0)", "(1, 0)", "(2, 0)", "(3, 0)")


def test_the_explorer_counts_on_nothing_that_need_not_happen() -> None:
    """A way that only faults or people open is none."""
    assert Explorer(Lifts(is_willing=False), "stuck").run().trace == ("(0, 0)",)
