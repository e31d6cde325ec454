"""Explore the model of runs and print what is found: `make model`; `--quick` explores less."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from interleavings import Explorer, Report
from run_model import (
    CANCEL_WINS,
    CURRENT_TOKEN,
    ENDS_ONCE,
    NEWEST_OWNER,
    NOT_STUCK,
    NOTHING_LEFT,
    ONE_OWNER,
    PROPERTIES,
    TERMINAL_FIRST,
    Rules,
    RunModel,
)

QUEUE = RunModel(workers=2, runs=2, has_reader=False)
STREAM = RunModel(workers=2, runs=1, has_bells=False)
ALONE = replace(QUEUE, workers=1, runs=1)
QUICK = (QUEUE, STREAM)
LARGE = (
    replace(QUEUE, workers=3),
    replace(STREAM, workers=3),
    RunModel(workers=2, runs=1, most_messages=2),
)


@dataclass(frozen=True)
class Mutant:
    """The model without one of its guards, and the property that this costs."""

    guard: str
    """A field of Rules."""
    costs: str
    model: RunModel = QUEUE

    def weakened(self) -> RunModel:
        """The model to explore."""
        return replace(self.model, rules=replace(Rules(), **{self.guard: False}))


MUTANTS = (
    Mutant("has_fence", ONE_OWNER),
    Mutant("has_fence_lock", CURRENT_TOKEN),
    Mutant("has_slot", ONE_OWNER),
    Mutant("has_sweep", NOT_STUCK, ALONE),
    Mutant("has_cancel_guard", CANCEL_WINS),
    Mutant("has_status_guard", ENDS_ONCE),
    Mutant("has_second_look", CANCEL_WINS),
    Mutant("has_late_rollback", NOTHING_LEFT),
    Mutant("has_terminal_first", TERMINAL_FIRST, STREAM),
    Mutant("has_watchdog", NOT_STUCK, replace(STREAM, workers=1)),
    Mutant("has_reader_token", NEWEST_OWNER, STREAM),
)


def explore(model: RunModel) -> Report:
    """Explore one model."""
    return Explorer(model, NOT_STUCK).run()


def describe(model: RunModel, report: Report) -> str:
    """One line: how large the model is, and how long it took."""
    parts = [f"workers {model.workers}", f"runs on one thread {model.runs}"]
    parts += ["with bells"] * model.has_bells
    parts += [f"with a reader, messages at once {model.most_messages}"] * model.has_reader
    return (
        f"{', '.join(parts)}: {report.states:,} states, {report.steps:,} steps, "
        f"depth {report.depth}, {report.seconds:.1f} s"
    )


def lines(models: tuple[RunModel, ...]) -> Iterator[str]:
    """What `make model` prints.

    Raises:
        SystemExit: the model breaks a property, or does not without one of its guards.
    """
    yield "Properties:"
    yield from (f"  {number}. {words}" for number, words in enumerate(PROPERTIES, 1))
    yield "The model, to its last state:"
    for model in models:
        report = explore(model)
        yield f"  {describe(model, report)}"
        if report.broken is not None:
            yield from story(report)
            raise SystemExit(1)
    yield "Without one of its guards:"
    for mutant in MUTANTS:
        report = explore(mutant.weakened())
        if report.broken != mutant.costs:
            raise SystemExit(f"{mutant.guard} away breaks {report.broken}, not {mutant.costs}")
        yield f"  no {mutant.guard.removeprefix('has_').replace('_', ' ')}:"
        yield from story(report)


def story(report: Report) -> Iterator[str]:
    """A counterexample."""
    yield f"    broken after {len(report.trace)} steps: {report.broken}"
    yield from (f"      {step}" for step in report.trace)


if __name__ == "__main__":
    for line in lines(QUICK if "--quick" in sys.argv else QUICK + LARGE):
        print(line, flush=True)
