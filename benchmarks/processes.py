"""What trees of processes cost in CPU and memory, and what else keeps the machine busy."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil

MEGABYTE = 1024 * 1024
QUIET_CORES = 0.3
"""With less than that in other hands the machine counts as quiet."""
LOOK_SECONDS = 0.3
ENGINES = ("postgres", "redis")
FORKED = ("web", "graphs", "worker")
"""Names that children of one parent have given themselves."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a server. `pss_bytes` counts shared pages once, `rss_bytes` in each process."""

    rss_bytes: int
    pss_bytes: int
    processes: int
    own_pss_bytes: int
    """Without its Postgres and Redis."""


@dataclass(frozen=True, slots=True)
class Moment:
    """All clocks at once."""

    at: float
    cpu: Mapping[str, float]
    """CPU seconds by part of the server."""
    own_seconds: float
    """CPU seconds of this process: the client."""
    machine_seconds: float
    stolen_seconds: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What passed between two moments."""

    seconds: float
    cpu: Mapping[str, float]
    client_cores: float
    """Near 1 the client limits what is measured."""
    noise_cores: float
    """Cores kept busy by what is neither the server nor the client."""
    stolen_cores: float

    @property
    def cpu_seconds(self) -> float:
        """Of all parts."""
        return sum(self.cpu.values())


class Processes:
    """The trees below some processes."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = pids

    def __iter__(self) -> Iterator[psutil.Process]:
        for pid in self.pids:
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                yield from [root, *root.children(recursive=True)]

    def now(self) -> Moment:
        """Read every clock."""
        cpu: dict[str, float] = defaultdict(float)
        for process in self:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                # What has ended counts on with whoever has waited for it.
                ended = times.children_user + times.children_system
                cpu[part_of(process)] += times.user + times.system + ended
        machine = psutil.cpu_times()
        busy = machine.user + machine.nice + machine.system + machine.irq + machine.softirq
        return Moment(perf_counter(), cpu, time.process_time(), busy, machine.steal)

    def since(self, before: Moment) -> Spent:
        """Tell what has passed since a moment."""
        now = self.now()
        seconds = now.at - before.at
        cpu = {part: spent - before.cpu.get(part, 0.0) for part, spent in now.cpu.items()}
        own = now.own_seconds - before.own_seconds
        others = now.machine_seconds - before.machine_seconds - own - sum(cpu.values())
        return Spent(
            seconds=seconds,
            cpu=cpu,
            client_cores=own / seconds,
            noise_cores=max(0.0, others / seconds),
            stolen_cores=(now.stolen_seconds - before.stolen_seconds) / seconds,
        )

    def memory(self) -> Memory:
        """Add up what all hold."""
        rss = pss = own = count = 0
        for process in self:
            with suppress(psutil.NoSuchProcess, OSError):
                rss += process.memory_info().rss
                held = read_pss(process.pid)
                pss += held
                own += 0 if part_of(process) in ENGINES else held
                count += 1
        return Memory(rss, pss, count, own)


def part_of(process: psutil.Process) -> str:
    """Name what a process is for."""
    # A second process of a kind has a number.
    name = process.name().removesuffix("-2")
    if name.startswith("postgres"):
        return "postgres"
    if "valkey" in name or "redis" in name:
        return "redis"
    if name in FORKED:
        return name
    words = " ".join(process.cmdline())
    for part, sign in (
        ("worker", "greenroom_workers.process"),
        ("web", "gunicorn"),
        ("graphs", "greenroom.cli.main graphs"),
    ):
        if sign in words:
            return part
    return "server"


def read_pss(pid: int) -> int:
    """Read the proportional share of a process, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def await_quiet(limit_seconds: float) -> None:
    """Wait until nothing else works on the machine, or the limit is reached."""
    nobody = Processes([])
    give_up = perf_counter() + limit_seconds
    while perf_counter() < give_up:
        before = nobody.now()
        time.sleep(LOOK_SECONDS)
        if nobody.since(before).noise_cores < QUIET_CORES:
            return
