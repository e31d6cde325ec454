"""Measure Greenroom beside its peers, in turns, on servers that are new in every round.

Prints a table with ratios and targets, and keeps every sample as a line of JSON.
"""

import argparse
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
from time import perf_counter

import psutil

from benchmarks import peers
from benchmarks.harness import BACKLOG, Harness
from benchmarks.report import OURS, PEERS, Table
from benchmarks.scenarios import SCENARIOS
from greenroom.logs import configure_logs

NAMES = (OURS, *PEERS)


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


if __name__ == "__main__":
    main()
