"""Fixtures of the fault suite: the scenario's line in the report, and the ledger of promises."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from deployment import Deployment
from ledger import Ledger
from report import Scenario, table

SCENARIOS: list[Scenario] = []


@pytest.fixture
def is_full(pytestconfig: pytest.Config) -> bool:
    """Whether the scenarios run at full size, as `make faults` asks, or in the short form."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture
def soak_seconds(pytestconfig: pytest.Config) -> float:
    """How long the soak lasts."""
    return float(pytestconfig.getoption("--soak"))


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> Iterator[Callable[[int, str], Scenario]]:
    """Opens a scenario's line from its row and title. It counts as over when the test passes."""
    made: list[Scenario] = []

    def make(row: int, title: str) -> Scenario:
        one = Scenario(row, title)
        made.append(one)
        SCENARIOS.append(one)
        return one

    failures = request.session.testsfailed
    yield make
    for one in made:
        one.is_over = request.session.testsfailed == failures


@pytest.fixture
def ledger(deployment: Deployment) -> Ledger:
    """The promises of a scenario on engines of its own."""
    return Ledger(deployment)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if SCENARIOS:
        terminalreporter.section("faults")
        for line in table(SCENARIOS):
            terminalreporter.write_line(line)
