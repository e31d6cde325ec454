"""The table that `make faults` prints: what was done to the server, and what became of its runs."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

FORM = "{:>3}  {:<52} {:>7} {:>6} {:>9} {:>9} {:>5} {:>8}"


@dataclass
class Scenario:
    """One fault as it was tried."""

    row: int
    """Of the table in docs/reliability.md."""
    title: str
    runs: int = 0
    kills: int = 0
    """Processes or engines killed, stopped, paused or cut off."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from each fault to the first sign that its effect was healed."""
    lost: int = 0
    doubled: int = 0
    is_over: bool = False

    @contextmanager
    def recovery(self) -> Iterator[None]:
        """Time the block: from a fault to its healing."""
        began = time.monotonic()
        yield
        self.recoveries.append(time.monotonic() - began)


def table(scenarios: list[Scenario]) -> list[str]:
    """The lines to print, in the order of the rows."""
    head = ("row", "scenario", "runs", "kills", "median s", "max s", "lost", "doubled")
    lines = [FORM.format(*head)]
    for one in sorted(scenarios, key=lambda scenario: scenario.row):
        times = one.recoveries
        lines.append(
            FORM.format(
                *(one.row, one.title + ("" if one.is_over else " (FAILED)"), one.runs, one.kills),
                f"{statistics.median(times):.2f}" if times else "-",
                f"{max(times):.2f}" if times else "-",
                *(one.lost, one.doubled),
            )
        )
    return lines
