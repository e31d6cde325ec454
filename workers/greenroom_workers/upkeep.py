"""The heartbeat of a worker process: leases, lost runs, due runs, lost bells.

A native thread of its own with a connection of its own, so that busy graphs do not starve it.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from greenroom.config import Config
from greenroom.crons import service as crons
from greenroom.database.engine import Database
from greenroom.errors import AppError
from greenroom.logs import get_logger
from greenroom.queue import life
from greenroom.queue.life import Lease
from greenroom.signals.sender import Signals
from greenroom.store.sweep import StoreSweep
from greenroom.streaming.frames import Batch, Kind, pack
from greenroom_workers.execution import Executor, Stop

log = get_logger(__name__)

EXHAUSTED: Final = "WorkerLost"
HELD_CRON_SECONDS: Final = 0.25
"""Until the next look at a due cron that another worker, or a request on its thread, has locked."""


class Upkeep:
    """Renews this process's leases and looks after the queue as a whole."""

    def __init__(
        self, config: Config, database: Database, executor: Executor, signals: Signals
    ) -> None:
        self.config = config
        self.database = database
        self.executor = executor
        self.signals = signals
        self.store_sweep = StoreSweep(config.project)
        self.renewed_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin; the first sweep comes at once, for what a crash left behind."""
        self._thread.start()

    def stop(self) -> None:
        """End after the current round."""
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        next_renewal = next_sweep = time.monotonic()
        while not self._stopped.is_set():
            now = time.monotonic()
            if now >= next_renewal:
                self._guarded("renew", self._renew)
                next_renewal = now + self.config.renew_seconds
            if now >= next_sweep:
                wait_seconds = self._guarded("sweep", self._sweep)
                next_sweep = now + (wait_seconds or self.config.sweep_seconds)
            self._stopped.wait(max(0.01, min(next_renewal, next_sweep) - time.monotonic()))

    def _guarded(self, what: str, work: Callable[[], float | None]) -> float | None:
        try:
            return work()
        except (AppError, SQLAlchemyError) as error:
            log.warning("upkeep failed", step=what, error=repr(error))
            self._abandon_if_expired()
            return None

    def _renew(self) -> None:
        """Prolong our leases; stop the runs that we have lost or that somebody wants to stop."""
        active = list(self.executor.active.values())
        asked_at = time.monotonic()
        if active:
            with self.database.statement() as connection:
                held = life.renew_leases(
                    connection, [run.claim.lease for run in active], self.config.lease_seconds
                )
            for run in active:
                lease = run.claim.lease
                if lease.run_id not in held:
                    # It may have ended while we asked: then nobody listens.
                    run.request_stop(Stop.LOST)
                elif (wish := held[lease.run_id]) is not None:
                    run.request_stop(Stop.CANCEL, wish)
        self.renewed_at = asked_at
        with self.database.statement() as connection:
            life.beat(connection, self.executor.worker_id, self.config.slots)

    def _abandon_if_expired(self) -> None:
        """Cut off from Postgres for as long as a lease: others may run our runs by now."""
        if time.monotonic() - self.renewed_at < self.config.lease_seconds:
            return
        for run in list(self.executor.active.values()):
            if run.started < self.renewed_at + self.config.lease_seconds:
                run.request_stop(Stop.LOST)

    def _sweep(self) -> float:
        """Repair what crashes left; the seconds until the next sweep."""
        next_cron_seconds = self._guarded("crons", self._fire_crons)
        with self.database.statement() as connection:
            requeued = life.requeue_expired(connection, self.config.max_attempts)
            exhausted = life.find_exhausted(connection, self.config.max_attempts)
            life.settle_due_runs(connection)
            life.sweep_leftovers(connection, self.config.resumable_ttl_seconds)
            due, next_due_seconds = life.find_work(connection, self.config.slots)
            self.store_sweep.run(connection)
        for run_id, thread_id, attempts in requeued:
            log.warning(
                "lease expired, run requeued",
                run_id=str(run_id),
                thread_id=str(thread_id),
                attempt=attempts,
            )
        for lease, attempts in exhausted:
            self._fail(lease, attempts)
        free = self.config.slots - len(self.executor.active)
        if due and free > 0:
            self._wake(min(due, free))
        waits = [self.config.sweep_seconds, next_due_seconds, next_cron_seconds]
        return max(0.02, min(seconds for seconds in waits if seconds is not None))

    def _fire_crons(self) -> float | None:
        """Start the runs of due crons; the seconds until the next one is due, None without any."""
        fired = crons.fire_due(self.database, self.signals, self.config.project)
        due_seconds = crons.find_next_due(self.database)
        if due_seconds is not None and due_seconds <= 0 and not fired:
            return HELD_CRON_SECONDS
        return due_seconds

    def _fail(self, lease: Lease, attempts: int) -> None:
        """End a run that took its worker with it every time."""
        error = {
            "error": EXHAUSTED,
            "message": f"the worker was lost during each of {attempts} attempts",
        }
        with self.database.transaction() as connection:
            has_failed = life.fail_exhausted_run(connection, lease, error)
            has_next = has_failed and life.settle(connection, lease.thread_id)
        if not has_failed:
            return
        log.error(
            "run given up",
            run_id=str(lease.run_id),
            thread_id=str(lease.thread_id),
            attempts=attempts,
        )
        end = Batch(Kind.END, lease.run_id, lease.token, 0, 0, 0, b"")
        self.signals.publish(lease.thread_id, pack(end))
        if has_next:
            self.signals.ring()

    def _wake(self, count: int) -> None:
        """Ring for runs whose bell was lost; without Redis, put threads of our own to work."""
        if self.signals.ring(count):
            return
        for _ in range(count):
            threading.Thread(
                target=self._guarded, args=("drain", self.executor.drain), daemon=True
            ).start()
