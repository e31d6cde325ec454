"""The table: medians and ranges of all rounds, ratios, and the targets beside them."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS = "greenroom"
PEERS = ("reference", "aegra", "encrypted", "floor")
Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table."""

    scenario: str
    figure: str
    title: str
    unit: str
    is_more_better: bool = False
    targets: Mapping[str, float] = field(default_factory=dict)
    """Peer -> what our figure divided by its own must reach, or not exceed."""
    limit: float | None = None
    """What our figure itself must not exceed; with `beside`, divided by that figure of ours."""
    beside: str | None = None


def more(scenario: str, figure: str, title: str, unit: str, **targets: float) -> Row:
    """A figure of which more is better."""
    return Row(scenario, figure, title, unit, is_more_better=True, targets=targets)


def less(
    scenario: str,
    figure: str,
    title: str,
    unit: str,
    *,
    limit: float | None = None,
    beside: str | None = None,
    **targets: float,
) -> Row:
    """A figure of which less is better."""
    return Row(scenario, figure, title, unit, targets=targets, limit=limit, beside=beside)


ROWS = (
    more("throughput", "runs_per_s", "background runs", "runs/s",
         reference=1.5, aegra=12, floor=1.5),
    more("throughput", "accepted_per_s", "runs accepted", "POST/s", reference=0.8, aegra=8),
    less("throughput", "cpu_s_per_1000", "CPU of 1,000 runs", "s",
         reference=1.5, aegra=0.12, floor=1.25),
    less("throughput", "cpu_s_per_1000.web", "of it web", "s"),
    less("throughput", "cpu_s_per_1000.worker", "of it worker", "s"),
    less("throughput", "cpu_s_per_1000.server", "of it server", "s"),
    less("throughput", "cpu_s_per_1000.postgres", "of it Postgres", "s"),
    less("throughput", "cpu_s_per_1000.redis", "of it Redis", "s"),
    more("throughput", "cores", "cores in use", "cores"),
    less("throughput", "statements_per_run", "SQL statements of a run", "", aegra=0.2, floor=0.8),
    less("throughput", "commits_per_run", "commits of a run", "", aegra=0.3, floor=0.8),
    less("throughput", "wal_bytes_per_run", "WAL of a run", "bytes"),
    less("throughput", "redis_commands_per_run", "Redis commands of a run", ""),
    less("throughput", "kb_per_run", "memory grown by a run", "kB"),
    less("wait", "1.p50_ms", "wait, 1 client, p50", "ms", reference=0.02, aegra=0.01, floor=2),
    less("wait", "10.p50_ms", "wait, 10 clients, p50", "ms"),
    less("wait", "50.p50_ms", "wait, 50 clients, p50", "ms"),
    less("wait", "50.p99_ms", "wait, 50 clients, p99", "ms"),
    more("wait", "50.per_s", "wait, 50 clients", "runs/s", reference=1.5, aegra=8, floor=1),
    less("stateless", "1.p50_ms", "stateless wait, 1 client, p50", "ms"),
    more("stateless", "50.per_s", "stateless wait, 50 clients", "runs/s"),
    less("stream", "1.first_event.p50_ms", "first event, 1 client, p50", "ms",
         reference=0.012, aegra=0.2, floor=4),
    less("stream", "1.first_data.p50_ms", "first values, 1 client, p50", "ms"),
    less("stream", "1.end.p50_ms", "end of stream, 1 client, p50", "ms"),
    less("stream", "20.first_event.p50_ms", "first event, 20 clients, p50", "ms"),
    less("stream", "20.end.p50_ms", "end of stream, 20 clients, p50", "ms",
         reference=0.6, aegra=0.15, floor=1.3),
    less("stream", "20.end.p99_ms", "end of stream, 20 clients, p99", "ms"),
    more("tokens", "one.events_per_s", "one stream", "events/s",
         reference=5, aegra=12, floor=0.25),
    more("tokens", "ten.events_per_s", "ten streams", "events/s",
         reference=5, aegra=15, floor=0.25),
    more("tokens", "messages.events_per_s", "one stream of a model", "events/s"),
    more("fan_out", "delivered_per_s", "one run to 200 readers", "events/s",
         reference=5, aegra=7),
    more("fan_out", "share_delivered", "of the events that were written", ""),
    more("replay", "live.events_per_s", "a run of generation 2, read as it goes", "events/s"),
    more("replay", "replayed_per_s", "replayed to 20 readers", "events/s"),
    less("replay", "grown_mb", "memory grown meanwhile", "MB"),
    less("idle", "few.cores", "CPU of 1,000 idle streams", "cores", reference=0.05, aegra=0.1),
    less("idle", "few.kb_each", "memory of each", "kB", limit=20),
    less("idle", "few.ok.p99_ms", "/ok meanwhile, p99", "ms", reference=0.05, aegra=1),
    less("idle", "many.cores", "CPU of 5,000 idle streams", "cores", reference=0.05, aegra=0.1),
    less("idle", "many.kb_each", "memory of each", "kB", limit=20),
    less("idle", "many.ok.p99_ms", "/ok meanwhile, p99", "ms", reference=0.05, aegra=1),
    less("idle", "quiet.ok.p99_ms", "/ok before, p99", "ms"),
    less("idle", "few.opening_s", "opening the first 1,000", "s"),
    less("idle", "many.opening_s", "opening 4,000 more", "s"),
    less("state", "small.state.p50_ms", "state, 1 client, p50", "ms",
         reference=0.3, aegra=0.5, floor=4),
    more("state", "small.state_10.per_s", "state, 10 clients", "requests/s",
         reference=10, aegra=3, floor=0.5),
    less("state", "small.history_10.p50_ms", "history, 10 of 50 checkpoints, p50", "ms"),
    less("state", "small.history_all.p50_ms", "history, 50 checkpoints, p50", "ms",
         reference=0.8, aegra=0.6, floor=1.3),
    less("state", "large.state.p50_ms", "state of 100 kB, 1 client, p50", "ms"),
    less("state", "large.history_10.p50_ms", "its history, 10 checkpoints, p50", "ms"),
    less("slots", "makespan_s", "200 one-second runs, makespan", "s",
         reference=0.2, aegra=0.25, floor=1.5),
    less("blocking", "blocked.ok.p99_ms", "/ok while 5 nodes block, p99", "ms",
         limit=1.5, beside="quiet.ok.p99_ms"),
    less("blocking", "quiet.ok.p99_ms", "/ok before, p99", "ms"),
    less("blocking", "blocked.post.p99_ms", "POST /threads while 5 nodes block, p99", "ms",
         limit=1.5, beside="quiet.post.p99_ms"),
    less("blocking", "quiet.post.p99_ms", "POST /threads before, p99", "ms"),
    less("backlog", "empty.admit.p50_ms", "admit on empty tables, p50", "ms"),
    less("backlog", "queued.admit.p50_ms", "admit with 100,000 queued, p50", "ms",
         limit=1.2, beside="empty.admit.p50_ms"),
    less("backlog", "finished.admit.p50_ms", "admit with 1,000,000 finished, p50", "ms",
         limit=1.2, beside="empty.admit.p50_ms"),
    less("backlog", "empty.claim.p50_ms", "claim on empty tables, p50", "ms"),
    less("backlog", "queued.claim.p50_ms", "claim with 100,000 queued, p50", "ms",
         limit=1.2, beside="empty.claim.p50_ms"),
    less("backlog", "finished.claim.p50_ms", "claim with 1,000,000 finished, p50", "ms",
         limit=1.2, beside="empty.claim.p50_ms"),
    less("backlog", "empty.finish.p50_ms", "finish on empty tables, p50", "ms"),
    less("backlog", "queued.finish.p50_ms", "finish with 100,000 queued, p50", "ms"),
    less("backlog", "finished.finish.p50_ms", "finish with 1,000,000 finished, p50", "ms"),
    less("start", "start_s", "start to first /ok", "s", reference=1.5, aegra=0.8),
    less("start", "own_pss_mb", "idle memory of all processes", "MB", reference=2.5, aegra=1.5),
    less("start", "pss_mb", "the same, with Postgres and Redis", "MB"),
    less("start", "rss_mb", "the same, shared pages in each", "MB"),
    less("start", "idle_cores", "CPU of an idle server", "cores"),
)  # fmt: skip


class Table:
    """Everything that was measured."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples = list(samples)
        found = {sample["server"] for sample in self.samples}
        self.servers = [name for name in (OURS, *PEERS) if name in found]
        self.verdicts: list[bool] = []

    def render(self) -> str:
        """Write it all as Markdown."""
        peers = [name for name in self.servers if name != OURS]
        heads = ["scenario", "figure", "unit", *self.servers, *(f"/ {name}" for name in peers)]
        lines = [as_line([*heads, "own target"]), as_line(["---"] * (len(heads) + 1))]
        lines += [as_line(self.cells(row, peers)) for row in ROWS if self.is_measured(row)]
        return "\n".join([*lines, "", *self.notes()])

    def is_measured(self, row: Row) -> bool:
        """Whether anybody has this figure."""
        return any(self.values(name, row.scenario, row.figure) for name in self.servers)

    def values(self, server: str, scenario: str, figure: str) -> list[float]:
        """One figure of every round."""
        return [
            sample["figures"][figure]
            for sample in self.samples
            if (sample["server"], sample["scenario"]) == (server, scenario)
            and figure in sample["figures"]
        ]

    def median(self, server: str, scenario: str, figure: str) -> float | None:
        """The middle of the rounds; None without any."""
        values = self.values(server, scenario, figure)
        return statistics.median(values) if values else None

    def cells(self, row: Row, peers: Sequence[str]) -> list[str]:
        """Write one row."""
        figures = [self.figure(name, row) for name in self.servers]
        ratios = [self.ratio(name, row) for name in peers]
        return [row.scenario, row.title, row.unit, *figures, *ratios, self.own(row)]

    def figure(self, server: str, row: Row) -> str:
        """Write median and range, with a mark where a round had errors."""
        values = self.values(server, row.scenario, row.figure)
        if not values:
            return ""
        has_errors = any(
            sample["errors"]
            for sample in self.samples
            if (sample["server"], sample["scenario"]) == (server, row.scenario)
        )
        text = number(statistics.median(values)) + (" !" if has_errors else "")
        if len(values) == 1:
            return text
        return f"{text} ({number(min(values))} to {number(max(values))})"

    def ratio(self, peer: str, row: Row) -> str:
        """Write our median divided by a peer's."""
        ours = self.median(OURS, row.scenario, row.figure)
        theirs = self.median(peer, row.scenario, row.figure)
        if ours is None or not theirs:
            return ""
        return self.judge(ours / theirs, row.targets.get(peer), is_more=row.is_more_better)

    def own(self, row: Row) -> str:
        """Write what a target says about our figure alone."""
        ours = self.median(OURS, row.scenario, row.figure)
        if ours is None or row.limit is None:
            return ""
        if row.beside is None:
            return self.judge(ours, row.limit, is_more=False)
        base = self.median(OURS, row.scenario, row.beside)
        return self.judge(ours / base, row.limit, is_more=False) if base else ""

    def judge(self, value: float, target: float | None, *, is_more: bool) -> str:
        """Write a value beside its target."""
        if target is None:
            return number(value)
        is_met = value >= target if is_more else value <= target
        self.verdicts.append(is_met)
        sign = "&ge;" if is_more else "&le;"
        return f"{number(value)} ({sign} {target:g}: {'met' if is_met else '**missed**'})"

    def notes(self) -> list[str]:
        """Write what a reader must know about the table."""
        rounds = 1 + max(sample["round"] for sample in self.samples)
        notes = [
            f"Medians (least to most) of {rounds} rounds; ratios are of medians.",
            "`!`: a round had errors.",
            f"Targets met: {sum(self.verdicts)} of {len(self.verdicts)}.",
        ]
        for name, title in (
            ("noise_cores", "Cores that others kept busy"),
            ("client_cores", "Cores that the client used"),
        ):
            values = [sample[name] for sample in self.samples if name in sample]
            if values:
                middle = number(statistics.median(values))
                notes.append(f"{title}: median {middle}, most {number(max(values))}.")
        for sample in self.samples:
            if sample["errors"]:
                where = f"{sample['server']} {sample['scenario']}, round {sample['round']}"
                notes.append(f"- {where}: {sample['errors']} errors: {sample['error_samples']}")
        return notes


def as_line(cells: Sequence[str]) -> str:
    """Write one line of Markdown."""
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Write three digits that count, or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return (
        f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.2f}"
        if abs(value) >= 0.1
        else f"{value:.4f}"
    )
