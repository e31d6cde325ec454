"""All rounds: which servers are up, whose turn it is, and what is written down of it."""

import argparse
import gc
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import time

from benchmarks import client
from benchmarks.backlog import Backlog
from benchmarks.load import Load
from benchmarks.loop import Figures
from benchmarks.processes import Processes, await_quiet
from benchmarks.report import OURS, Sample
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import Aegra, Encrypted, Floor, Greenroom, HttpServer, Reference, Server
from benchmarks.sizes import FULL, QUICK

BACKLOG = "backlog"
"""Not of a server: see backlog.py."""


class Harness:
    """Measures what the command line asks for."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.sizes = QUICK if options.quick else FULL
        self.scenarios = {
            name: scenario for name, scenario in SCENARIOS.items() if name in options.scenarios
        }
        self.samples: list[Sample] = []
        options.out.write_text("", encoding="utf-8")

    def measure(self) -> list[Sample]:
        """Go round, with servers that nobody has used."""
        with ExitStack() as stack:
            backlog = None
            if BACKLOG in self.options.scenarios and OURS in self.options.servers:
                say("making the rows of the backlog")
                backlog = stack.enter_context(Backlog(self.folder, self.sizes))
            for number in range(self.options.rounds):
                self.measure_round(number)
                if backlog:
                    self.take_sample(number, OURS, BACKLOG, backlog.processes, backlog.measure)
        return self.samples

    def measure_round(self, number: int) -> None:
        """Take the scenarios in their order, and the servers in turns for each.

        So the figures of a scenario are seconds apart: the machine's pace changes in minutes.
        Who begins changes with the round.
        """
        names = self.options.servers
        names = [*names[number % len(names) :], *names[: number % len(names)]]
        with ExitStack() as stack:
            servers = [self.make(number, name) for name in names]
            for server in servers:
                stack.callback(server.stop)
            for name, scenario in self.scenarios.items():
                taking_part = [
                    server
                    for server in servers
                    if scenario.has_floor or not isinstance(server, Floor)
                ]
                if scenario.is_alone:
                    for server in servers:
                        server.stop()
                    for server in taking_part:
                        self.measure_alone(number, server, name, scenario)
                else:
                    for server in taking_part:
                        if not server.is_up:
                            self.start(server)
                    for server in taking_part:
                        self.measure_scenario(number, server, name, scenario)

    def make(self, number: int, name: str) -> Server:
        """Make one of the compared."""
        folder = self.folder / f"{number}-{name}"
        folder.mkdir(mode=0o755)
        if name == Floor.name:
            return Floor(folder, self.sizes)
        kinds = {kind.name: kind for kind in (Greenroom, Encrypted, Reference, Aegra)}
        return kinds[name](folder)

    def measure_alone(self, number: int, server: Server, name: str, scenario: Scenario) -> None:
        """Start a server on the data that it has left, take one scenario, and stop it."""
        if not server.has_data:
            self.start(server)
            server.stop()
        self.start(server, self.sizes.slow_runs if scenario.has_slots else None)
        self.measure_scenario(number, server, name, scenario)
        server.stop()

    def start(self, server: Server, slots: int | None = None) -> None:
        """Start a server and make it warm."""
        say(f"starting {server.name}")
        server.start(slots)
        server.counters.check_durability()
        if isinstance(server, HttpServer):
            load = Load(server, self.sizes.scaled(server.share))
            with client.run() as runner:
                runner.run(load.warm_up())
            if load.errors:
                raise server.fail(f"does not execute runs: {dict(load.errors)}")

    def measure_scenario(self, number: int, server: Server, name: str, scenario: Scenario) -> None:
        """Take one scenario on one server."""
        processes = server.processes
        if isinstance(server, Floor):
            self.take_sample(number, server.name, name, processes, lambda: server.ask(name))
            return
        assert isinstance(server, HttpServer)
        load = Load(server, self.sizes.scaled(server.share))

        async def take() -> Figures:
            try:
                return await scenario.measure(load)
            except (client.Broken, OSError) as error:
                load.blame(name, error)
                return {}
            finally:
                load.close()

        def measure() -> Figures:
            with client.run() as runner:
                return runner.run(take())

        self.take_sample(number, server.name, name, processes, measure, load)

    def take_sample(
        self,
        number: int,
        server: str,
        scenario: str,
        processes: Processes,
        measure: Callable[[], Figures],
        load: Load | None = None,
    ) -> None:
        """Measure once, and write down what came of it, and what else happened meanwhile."""
        if not self.options.quick:
            await_quiet(self.options.quiet_seconds)
        gc.collect()
        gc.disable()
        before = processes.now()
        figures = measure()
        spent = processes.since(before)
        gc.enable()
        errors = load.errors if load else {}
        sample: Sample = {
            "round": number,
            "server": server,
            "scenario": scenario,
            "figures": {name: round(value, 4) for name, value in figures.items()},
            "errors": sum(errors.values()),
            "error_samples": dict(list(errors.items())[:5]),
            "seconds": round(spent.seconds, 2),
            "client_cores": round(spent.client_cores, 3),
            "noise_cores": round(spent.noise_cores, 3),
            "stolen_cores": round(spent.stolen_cores, 3),
            "at": round(time(), 1),
        }
        self.samples.append(sample)
        with self.options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(sample) + "\n")
        say(
            f"round {number}: {server} {scenario}, {spent.seconds:.1f} s, {sample['errors']} errors"
        )


def say(what: str) -> None:
    """Tell whoever watches; the table alone goes to standard output."""
    print(what, file=sys.stderr, flush=True)
