"""What every worker process does for the deployment: lost runs, due runs, lost bells, old rows."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from greenroom import wire
from greenroom.config import Config
from greenroom.crons import firing
from greenroom.database.engine import Database
from greenroom.errors import AppError
from greenroom.logs import get_logger
from greenroom.queue import life
from greenroom.queue.life import Lease, Work
from greenroom.runs.priority import Priorities
from greenroom.signals.sender import Signals
from greenroom.store.sweep import StoreSweep
from greenroom.streaming.frames import make_end, make_frame, pack
from greenroom.streaming.thread_log import add_end
from greenroom.threads.expiry import ThreadSweep
from greenroom_workers.claims import Claims
from greenroom_workers.identity import is_dead

log = get_logger(__name__)

EXHAUSTED: Final = "WorkerLost"
SHORTEST_PAUSE_SECONDS: Final = 0.02
LEFTOVERS_EVERY: Final = 5
"""Rounds between two looks for what has had its time: nobody waits for that."""
HELD_CRON_SECONDS: Final = 0.25
"""Until the next look at a due cron that another worker, or a request on its thread, has locked."""


class Upkeep:
    """Looks after the queue as a whole; any number of workers may do so at once."""

    def __init__(
        self,
        config: Config,
        database: Database,
        claims: Claims,
        signals: Signals,
        tell_suspects: Callable[[int], None],
        priorities: Priorities | None = None,
    ) -> None:
        self.config = config
        self.database = database
        self.claims = claims
        self.signals = signals
        self.priorities = priorities
        """Who is asked about the order of the runs of crons; None: nobody."""
        self.tell_suspects = tell_suspects
        """Hears how many runs wait for a process of their own."""
        self.store_sweep = StoreSweep(config.project)
        self.thread_sweep = ThreadSweep(config.project)
        self._is_stopping = False
        self._rounds_done = 0
        # Crons apart: they may wait for handlers of the owner's, and lost runs must not.
        self._rounds = [
            self._make_round("upkeep", queue=self._sweep_queue, leftovers=self._sweep_leftovers),
            self._make_round("crons", crons=self._fire_crons),
        ]

    def start(self) -> None:
        """Begin; the first sweep comes at once, for what a crash left behind."""
        for thread, _ in self._rounds:
            thread.start()

    def hurry(self) -> None:
        """Begin the next rounds now."""
        for _, wakeup in self._rounds:
            wakeup.set()

    def stop(self) -> None:
        """End after the current rounds."""
        self._is_stopping = True
        self.hurry()
        for thread, _ in self._rounds:
            thread.join(timeout=5)

    def _make_round(
        self, name: str, **steps: Callable[[], float | None]
    ) -> tuple[threading.Thread, threading.Event]:
        wakeup = threading.Event()
        arguments = (steps, wakeup)
        return threading.Thread(target=self._run, args=arguments, name=name, daemon=True), wakeup

    def _run(
        self, steps: Mapping[str, Callable[[], float | None]], wakeup: threading.Event
    ) -> None:
        while not self._is_stopping:
            began = time.monotonic()
            wakeup.clear()
            waits = [self._guarded(name, step) for name, step in steps.items()]
            soonest = min(filter(None, [*waits, self.config.sweep_seconds]))
            if not self._is_stopping:
                wakeup.wait(max(SHORTEST_PAUSE_SECONDS, began + soonest - time.monotonic()))

    def _guarded(self, what: str, work: Callable[[], float | None]) -> float | None:
        try:
            return work()
        except (AppError, SQLAlchemyError) as error:
            log.warning("upkeep failed", step=what, error=repr(error))
            return None

    def _sweep_queue(self) -> float | None:
        """Repair what crashes left; the seconds until the next scheduled run, None without any."""
        with self.database.direct() as connection:
            holders, has_expired, work = life.look_around(connection, self.config.slots)
        dead = [holder for holder in holders if is_dead(holder)]
        is_due = work.next_due_seconds is not None and work.next_due_seconds <= 0
        if dead or has_expired or is_due:
            work = self._repair(dead)
        self.tell_suspects(work.suspects)
        free = self.claims.free_slots
        if work.due and free > 0:
            self._wake(min(work.due, free))
        next_due = work.next_due_seconds
        return None if next_due is None else max(next_due, SHORTEST_PAUSE_SECONDS)

    def _repair(self, dead: list[str]) -> Work:
        """Return what is lost to the queue, and let in what is due. Returns what waits then."""
        with self.database.statement() as connection:
            if dead:
                life.expire_leases(connection, dead)
            requeued = life.requeue_expired(connection, self.config.max_attempts)
            exhausted = life.find_exhausted(connection, self.config.max_attempts)
            life.settle_due_runs(connection)
            _, _, work = life.look_around(connection, self.config.slots)
        for run in requeued:
            log.warning(
                "lease expired, run requeued",
                run_id=str(run.run_id),
                thread_id=str(run.thread_id),
                losses=run.losses,
                is_suspect=run.is_suspect,
            )
        for lease, losses in exhausted:
            self._fail(lease, losses)
        return work

    def _sweep_leftovers(self) -> None:
        """Delete what has had its time: results, events, store items, threads."""
        self._rounds_done += 1
        if self._rounds_done % LEFTOVERS_EVERY != 1:
            return
        with self.database.statement() as connection:
            life.sweep_leftovers(connection, self.config.resumable_ttl_seconds)
            self.store_sweep.run(connection)
        self.thread_sweep.run(self.database)

    def _fire_crons(self) -> float | None:
        """Start the runs of due crons; the seconds until the next one is due, None without any."""
        due_seconds, fired = firing.find_next_due(self.database), 0
        if due_seconds is not None and due_seconds <= 0:
            fired = firing.fire_due(
                self.database, self.signals, self.config.project, self.priorities
            )
            due_seconds = firing.find_next_due(self.database)
        if due_seconds is not None and due_seconds <= 0 and not fired:
            return HELD_CRON_SECONDS
        return None if due_seconds is None else max(due_seconds, SHORTEST_PAUSE_SECONDS)

    def _fail(self, lease: Lease, losses: int) -> None:
        """End a run that took its worker with it every time."""
        error = {
            "error": EXHAUSTED,
            "message": f"the worker was lost during each of {losses} attempts",
        }
        with self.database.transaction() as connection:
            has_failed = life.fail_exhausted_run(connection, lease, error)
            has_next = has_failed and life.settle(connection, lease.thread_id)
            told = has_failed and add_end(
                connection, lease.thread_id, lease.run_id, "failed", error["message"]
            )
        if not has_failed:
            return
        log.error(
            "run given up",
            run_id=str(lease.run_id),
            thread_id=str(lease.thread_id),
            attempts=losses,
        )
        told_error = make_frame("error", wire.dumps(error), None)
        self.signals.publish(lease.thread_id, pack(make_end(lease.run_id, told_error)))
        if told:
            self.signals.publish_numbered(lease.thread_id, pack(told))
        if has_next:
            self.signals.ring()

    def _wake(self, count: int) -> None:
        """Ring for runs whose bell was lost; without Redis, put threads of our own to work."""
        if self.signals.ring(count):
            return
        for _ in range(count):
            threading.Thread(
                target=self._guarded, args=("drain", self.claims.drain), daemon=True
            ).start()
