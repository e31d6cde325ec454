"""How much of everything is measured."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of requests, events and streams, and the limits of time."""

    warm_up_runs: int = 40
    runs: int = 1500
    """Some seconds of them: the first half second of a burst is another matter than its rest."""
    posting_clients: int = 20
    loop_seconds: float = 3.0
    """One closed loop ends then, or with the requests that it has."""
    requests_each: int = 40
    """Of a loop with one client."""
    requests: int = 600
    """Of a loop with many clients."""
    events: int = 12_000
    events_each: int = 3_000
    """Of each of ten streams."""
    message_events: int = 2_000
    readers: int = 200
    reader_events: int = 300
    reader_start_seconds: float = 1.5
    replayed_events: int = 10_000
    replay_readers: int = 20
    few_streams: int = 1000
    many_streams: int = 5000
    stream_opening_seconds: float = 30.0
    idle_seconds: float = 5.0
    """Long enough for a heartbeat of every stream."""
    probe_seconds: float = 3.0
    checkpoints: int = 50
    payload_bytes: int = 100_000
    reads: int = 150
    slow_runs: int = 200
    slow_seconds: float = 1.0
    blocking_runs: int = 5
    blocking_seconds: float = 4.0
    queued_rows: int = 100_000
    finished_rows: int = 1_000_000
    queue_calls: int = 400

    def scaled(self, share: float) -> "Sizes":
        """Fewer runs and events, for a server that would need minutes for all of them.

        Rates and medians bear that. What a target counts (readers, streams, slow runs, clients)
        stays as it is.
        """

        def part(number: int) -> int:
            return max(1, round(number * share))

        return replace(
            self,
            runs=part(self.runs),
            requests=part(self.requests),
            events=part(self.events),
            events_each=part(self.events_each),
            message_events=part(self.message_events),
            reader_events=part(self.reader_events),
            replayed_events=part(self.replayed_events),
            blocking_seconds=max(2.0, self.blocking_seconds * share),
        )


FULL = Sizes()
QUICK = Sizes(
    warm_up_runs=10,
    runs=40,
    loop_seconds=1.0,
    requests_each=4,
    requests=60,
    events=400,
    events_each=100,
    message_events=100,
    readers=20,
    reader_events=50,
    reader_start_seconds=1.0,
    replayed_events=300,
    replay_readers=4,
    few_streams=40,
    many_streams=100,
    stream_opening_seconds=5.0,
    idle_seconds=1.0,
    probe_seconds=0.5,
    checkpoints=12,
    payload_bytes=20_000,
    reads=10,
    slow_runs=30,
    slow_seconds=0.5,
    blocking_seconds=1.0,
    queued_rows=1000,
    finished_rows=5000,
    queue_calls=20,
)
"""Only shows that everything works."""
