"""How long an idle server takes to begin a run: one request at a time, with pauses between them.

Needs a running server. See README.md beside this file.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

GREETING = {"messages": [{"role": "user", "content": "Hello"}]}
TIMEOUT_SECONDS = 60.0
HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run took, in seconds since its request was sent."""

    accepted: float
    """The first event arrived: a worker has the run."""
    produced: float
    """The first event of a node arrived."""
    entered: float | None
    """A node began, by its own clock; None for a graph that does not tell `started_at`."""


def main() -> None:
    """Measure, and print one table."""
    options = parse_options()
    try:
        samples = measure_all(options)
    except OSError as error:
        raise SystemExit(f"no answer from {options.url}: {error}") from error
    print(f"{len(samples)} runs of {options.graph!r} on {options.url}, {options.pause:g} s apart\n")
    print(table(samples))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:2024", help="where the server is")
    add("--graph", default="agent", help="assistant id or graph id")
    add("--input", type=json.loads, default=GREETING, help="the run's input, as JSON")
    add("--stream-mode", default="messages-tuple", help="one in which a node writes at once")
    add("--threads", action="store_true", help="give each run a thread, made before it")
    add("--count", type=int, default=30, help="runs that are measured")
    add("--pause", type=float, default=0.5, help="idle seconds before each")
    add("--warm-up", type=int, default=3, help="runs before the measured ones")
    options = parser.parse_args()
    if options.count < 1:
        parser.error("--count must be 1 or more")
    return options


def measure_all(options: argparse.Namespace) -> list[Sample]:
    """Warm the server up, then measure run after run."""
    where = urlsplit(options.url)
    # The standard library's client: a heavier one would be half of what is measured.
    connection = HTTPConnection(where.hostname or "127.0.0.1", where.port, timeout=TIMEOUT_SECONDS)
    samples = []
    for _ in range(options.warm_up):
        measure(connection, options)
    for _ in range(options.count):
        time.sleep(options.pause)
        samples.append(measure(connection, options))
    connection.close()
    return samples


def measure(connection: HTTPConnection, options: argparse.Namespace) -> Sample:
    """Stream one run to its end.

    Raises:
        SystemExit: the server refused the run, or it failed, or no node of it wrote an event.
    """
    path = "/runs/stream"
    if options.threads:
        connection.request("POST", "/threads", b"{}", HEADERS)
        path = f"/threads/{json.load(connection.getresponse())['thread_id']}/runs/stream"
    wanted = {
        "assistant_id": options.graph,
        "input": options.input,
        "stream_mode": options.stream_mode,
    }
    body = json.dumps(wanted).encode()
    accepted = produced = entered = None
    sent_at, sent = time.time(), time.perf_counter()
    connection.request("POST", path, body, HEADERS)
    response = connection.getresponse()
    if response.status != HTTPStatus.OK:
        raise SystemExit(f"{response.status}: {response.read().decode()}")
    for name, data in events(response):
        now = time.perf_counter() - sent
        if name == "error":
            raise SystemExit(f"the run failed: {data}")
        if name == "metadata":
            accepted = accepted or now
        elif produced is None:
            produced = now
            # Two clocks of one machine: meaningless against a server on another.
            if isinstance(data, dict) and "started_at" in data:
                entered = data["started_at"] - sent_at
    if accepted is None or produced is None:
        raise SystemExit(f"no event of a node came with stream_mode {options.stream_mode!r}")
    return Sample(accepted, produced, entered)


def events(response: HTTPResponse) -> Iterator[tuple[str, Any]]:
    """Yield the name and data of each server-sent event; heartbeats are left out."""
    name = ""
    for line in iter(response.readline, b""):
        if line.startswith(b"event:"):
            name = line.removeprefix(b"event:").strip().decode()
        elif line.startswith(b"data:"):
            yield name, json.loads(line.removeprefix(b"data:"))


def table(samples: list[Sample]) -> str:
    """Write the quantiles, in milliseconds."""
    rows = [
        ("request sent -> metadata event", [sample.accepted for sample in samples]),
        ("request sent -> first event of a node", [sample.produced for sample in samples]),
    ]
    entered = [sample.entered for sample in samples if sample.entered is not None]
    if entered:
        rows.insert(1, ("request sent -> node began (its own clock)", entered))
    width = max(len(label) for label, _ in rows)
    lines = [f"{'ms':<{width}} {'median':>8} {'p90':>8} {'p99':>8}"]
    for label, seconds in rows:
        figures = (statistics.median(seconds), *(quantile(seconds, q) for q in (0.9, 0.99)))
        lines.append(f"{label:<{width}} " + " ".join(f"{1000 * each:8.1f}" for each in figures))
    return "\n".join(lines)


def quantile(values: list[float], share: float) -> float:
    """Find the value that `share` of all do not exceed: one that was measured, no mean of two."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


if __name__ == "__main__":
    main()
