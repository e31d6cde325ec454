"""Fixtures of the fault suite: the scenario's line in the report, and the ledger of promises."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from deployment import Deployment
from ledger import Ledger
from report import Scenario, table

LINE = "scenario"
"""The name of a test's property that holds a line of the report."""


@pytest.fixture
def is_full(pytestconfig: pytest.Config) -> bool:
    """Whether the scenarios run at full size, as `make faults` asks, or in the short form."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture
def soak_seconds(pytestconfig: pytest.Config) -> float:
    """How long the soak lasts."""
    return float(pytestconfig.getoption("--soak"))


@pytest.fixture
def scenario(
    record_property: Callable[[str, object], None],
) -> Iterator[Callable[[int, str], Scenario]]:
    """Opens a scenario's line from its row and title. It counts as over when the test passes."""
    made: list[Scenario] = []

    def make(row: int, title: str) -> Scenario:
        made.append(Scenario(row, title))
        return made[-1]

    yield make
    for one in made:
        record_property(LINE, asdict(one))


@pytest.fixture
def ledger(deployment: Deployment) -> Ledger:
    """The promises of a scenario on engines of its own."""
    return Ledger(deployment)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The soak first: where tests run side by side, the others pass meanwhile."""
    items.sort(key=lambda item: "test_soak" not in item.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table. The lines came with the reports, so that tests may run side by side."""
    reports = [one for each in terminalreporter.stats.values() for one in each]
    reports = [one for one in reports if isinstance(one, pytest.TestReport)]
    failed = {one.nodeid for one in reports if one.failed}
    lines = [
        Scenario(**{**value, "is_over": one.nodeid not in failed})
        for one in reports
        if one.when == "teardown"
        for name, value in one.user_properties
        if name == LINE
    ]
    if lines:
        terminalreporter.section("faults")
        for line in table(lines):
            terminalreporter.write_line(line)
