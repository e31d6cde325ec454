"""Everything at once, for as long as it takes."""

import random
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event

import httpx
import psutil
import pytest
import redis
from clients import Failover
from deployment import Deployment, until
from killing import kill, kill_web
from ledger import Ledger
from load import cancel, converse, create, stream, wait, wait_stateless, working
from report import Scenario

CLIENTS = (create, wait, wait_stateless, stream, converse, cancel)
LOAD = 0.7
"""Of what the deployment does when nothing is in its way."""
PROBE_SECONDS = 6
GROWTH_MEGABYTES = 40.0
"""What the oldest processes may gain from the second to the last third, however long that is."""
ACTIVE_OF = "SELECT count(*) = 0 FROM run WHERE status = 'running' AND worker_id LIKE :owner"


@dataclass
class Weather:
    """What happens to the deployment. The first web process and worker are spared and grow old."""

    deployment: Deployment
    scenario: Scenario
    urls: list[str]
    megabytes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.elders = [
            psutil.Process(self.deployment.webs[self.urls[0]].pid),
            psutil.Process(self.deployment.workers[0].pid),
        ]
        self.redis = redis.Redis.from_url(self.deployment.redis.uri)

    def strike(self, number: int) -> None:
        """Do the next harm, and wait until it is made good."""
        faults = [self.kill_worker, self.kill_web]
        if number % 3 == 2:
            faults = [self.stop_worker, self.stop_web, self.flush]
        with self.scenario.recovery():
            random.choice(faults)()
        self.scenario.kills += 1

    def kill_worker(self) -> None:
        victim = self._pick_worker()
        kill(victim)
        self.deployment.start_worker()
        owner = f"%:{victim.pid}:%"
        until(lambda: self.deployment.value(ACTIVE_OF, owner=owner), 60)

    def kill_web(self) -> None:
        url = random.choice(self.urls[1:])
        kill_web(self.deployment, url)
        self.deployment.start_web(int(url.rpartition(":")[2]))

    def stop_worker(self) -> None:
        victim = self._pick_worker()
        victim.send_signal(signal.SIGTERM)
        assert victim.wait(timeout=30) == 0
        self.deployment.start_worker()

    def stop_web(self) -> None:
        self.deployment.restart_web(random.choice(self.urls[1:]))

    def flush(self) -> None:
        self.redis.flushall()

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Note twice a second, during the block, how much memory the spared processes hold."""
        family = [
            member for elder in self.elders for member in [elder, *elder.children(recursive=True)]
        ]
        stopped = Event()

        def measure() -> None:
            while not stopped.wait(0.5):
                self.megabytes.append(sum(one.memory_info().rss for one in family) / 2**20)

        with ThreadPoolExecutor(1) as pool:
            measuring = pool.submit(measure)
            try:
                yield
            finally:
                stopped.set()
        measuring.result()

    def growth_megabytes(self) -> float:
        """From the second to the last third of the measurements; the first is for warming up."""
        third = len(self.megabytes) // 3
        middle, last = self.megabytes[third : 2 * third], self.megabytes[2 * third :]
        return statistics.median(last) - statistics.median(middle)

    def _pick_worker(self) -> subprocess.Popen[bytes]:
        living = [one for one in self.deployment.workers[1:] if one.poll() is None]
        return random.choice(living)


@pytest.mark.timeout(3600)
def test_a_soak_under_fire_loses_and_doubles_nothing(
    deployment: Deployment,
    scenario: Callable[[int, str], Scenario],
    ledger: Ledger,
    soak_seconds: float,
) -> None:
    """Every kind of client at work while processes die: no run lost or doubled, no leak."""
    one = scenario(15, "soak")
    deployment.settings["BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS"] = "1"
    urls = [deployment.start_web() for _ in range(2)]
    for _ in range(3):
        deployment.start_worker()
    weather = Weather(deployment, one, urls)
    pause_seconds = min(15.0, soak_seconds / 5)
    failover = Failover(urls)
    with httpx.Client(base_url="http://greenroom", transport=failover, timeout=60) as http:
        at_work = partial(working, CLIENTS, http, ledger, each=3)
        with at_work() as done:
            time.sleep(PROBE_SECONDS)
            capacity = sum(done) / PROBE_SECONDS
        ends_at = time.monotonic() + soak_seconds
        with at_work(per_second=LOAD * capacity) as done, weather.measured():
            strikes = 0
            while (now := time.monotonic()) < ends_at:
                weather.strike(strikes)
                strikes += 1
                time.sleep(max(0.0, min(now + pause_seconds, ends_at) - time.monotonic()))
    weather.redis.close()
    one.runs = sum(done)
    growth = weather.growth_megabytes()
    one.title = (
        f"soak: {soak_seconds:.0f} s, {LOAD * capacity:.0f} of {capacity:.0f} tasks/s, "
        f"{growth:+.0f} MB"
    )
    ledger.check(seconds=120)
    one.lost, one.doubled = len(ledger.lost()), len(ledger.doubled())
    assert growth < GROWTH_MEGABYTES, weather.megabytes
