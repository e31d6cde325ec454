"""Measure Greenroom beside its peers, in turns, on fresh servers in every round.

Prints a table with ratios and targets, and keeps every sample as a line of JSON.
"""

import argparse
import gc
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, time

import psutil

from benchmarks import client, peers
from benchmarks.backlog import Backlog
from benchmarks.load import Load
from benchmarks.loop import Figures
from benchmarks.processes import Processes, await_quiet
from benchmarks.report import OURS, PEERS, Sample, Table
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import Aegra, Encrypted, Floor, Greenroom, HttpServer, Reference, Server
from benchmarks.sizes import FULL, QUICK
from greenroom.logs import configure_logs

NAMES = (OURS, *PEERS)
BACKLOG = "backlog"
"""Not of a server: see backlog.py."""


def main() -> None:
    """Measure, and print the table."""
    options = parse_options()
    if options.report:
        lines = options.report.read_text(encoding="utf-8").splitlines()
        print(Table(json.loads(line) for line in lines).render())
        return
    # So that servers are stopped, and data is removed, whoever stops us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    configure_logs("WARNING", as_json=False)
    raise_file_limit()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    begin = perf_counter()
    with measuring_folder(options.folder) as folder:
        samples = Harness(options, folder).measure()
    print(f"\n{machine()}\n`{' '.join(['python -m benchmarks', *sys.argv[1:]])}`", end=", ")
    print(f"{(perf_counter() - begin) / 60:.0f} minutes\n")
    if options.quick:
        print("Quick sizes: these figures show that everything works, and nothing else.\n")
    print(Table(samples).render())


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    every = [*SCENARIOS, BACKLOG]
    add = parser.add_argument
    add("--servers", type=names_of(NAMES), default=[OURS, "floor"], help=", ".join(NAMES))
    add("--scenarios", type=names_of(every), default=every, help=", ".join(every))
    add("--rounds", type=int, default=5, help="times that each server is measured, in turns")
    add("--quick", action="store_true", help="tiny sizes, to see that everything works")
    add("--skip-missing", action="store_true", help="leave Aegra out without a Python for it")
    add("--out", type=Path, default=peers.HOME / "samples.jsonl", help="where samples go")
    add("--folder", type=Path, help="where servers keep their data; a temporary one")
    add("--quiet-seconds", type=float, default=5.0, help="longest wait for an idle machine")
    add("--report", type=Path, help="print the table of kept samples, measure nothing")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if "aegra" in options.servers and peers.find_aegra_python() is None:
        if not options.skip_missing:
            parser.error("aegra needs Python {}.{}".format(*peers.AEGRA_PYTHON))
        options.servers.remove("aegra")
        print("no Python for aegra: it is left out", file=sys.stderr)
    return options


def names_of(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Make a reader of comma-separated names, which keeps the order of `allowed`."""

    def read(text: str) -> list[str]:
        wanted = set(text.split(","))
        if unknown := wanted - set(allowed):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return [name for name in allowed if name in wanted]

    return read


def raise_file_limit() -> None:
    """Allow ourselves and the servers as many streams as the machine does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def measuring_folder(given: Path | None) -> Iterator[Path]:
    """Make a folder for all data, which goes with the run."""
    with tempfile.TemporaryDirectory(prefix="greenroom-bench-", dir=given) as directory:
        # Postgres runs as somebody else where we are root.
        Path(directory).chmod(0o755)
        yield Path(directory)


def machine() -> str:
    """Describe what all this ran on."""
    memory = psutil.virtual_memory().total / 2**30
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return (
        f"{os.cpu_count()} cores ({processor()}), {memory:.0f} GB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, commit {commit or 'unknown'}"
    )


def processor() -> str:
    """Name the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


class Harness:
    """All rounds."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.sizes = QUICK if options.quick else FULL
        self.samples: list[Sample] = []
        options.out.write_text("", encoding="utf-8")

    def measure(self) -> list[Sample]:
        """Take the servers one after the other, again and again."""
        options = self.options
        if BACKLOG in options.scenarios and OURS in options.servers:
            say("making the rows of the backlog")
            with Backlog(self.folder, self.sizes) as backlog:
                self.measure_rounds(backlog)
        else:
            self.measure_rounds(None)
        return self.samples

    def measure_rounds(self, backlog: Backlog | None) -> None:
        """Go round, with servers that nobody has used."""
        for number in range(self.options.rounds):
            for name in self.options.servers:
                folder = self.folder / f"{number}-{name}"
                folder.mkdir(mode=0o755)
                server = self.make(name, folder)
                try:
                    self.measure_server(number, server)
                finally:
                    server.stop()
            if backlog:
                self.take_sample(number, OURS, BACKLOG, backlog.processes, backlog.measure)

    def make(self, name: str, folder: Path) -> Server:
        """Make one of the compared."""
        if name == "floor":
            return Floor(folder, self.sizes)
        kinds = {kind.name: kind for kind in (Greenroom, Encrypted, Reference, Aegra)}
        return kinds[name](folder)

    def measure_server(self, number: int, server: Server) -> None:
        """Take the chosen scenarios in their order, with a new start where one wants it."""
        is_floor = isinstance(server, Floor)
        chosen = {
            name: scenario
            for name, scenario in SCENARIOS.items()
            if name in self.options.scenarios and (scenario.has_floor or not is_floor)
        }
        if not chosen:
            return
        self.start(server)
        for name, scenario in chosen.items():
            slots = self.sizes.slow_runs if scenario.has_slots and server.has_slots else None
            if slots != server.slots or (scenario.wants_restart and not is_floor):
                server.stop()
                self.start(server, slots)
            self.measure_scenario(number, server, name, scenario)

    def start(self, server: Server, slots: int | None = None) -> None:
        """Start a server and make it warm."""
        say(f"starting {server.name}")
        server.start(slots)
        server.counters.check_durability()
        if isinstance(server, HttpServer):
            load = Load(server, self.sizes.scaled(server.share))
            with client.run() as runner:
                runner.run(load.warm_up())
            load.close()
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

        def measure() -> Figures:
            try:
                with client.run() as runner:
                    return runner.run(scenario.measure(load))
            except (client.Broken, OSError) as error:
                load.blame(name, error)
                return {}

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


if __name__ == "__main__":
    main()
