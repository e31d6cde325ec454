"""Looks after runs that were asked to stop and do not: code that blocks cannot hear us.

First their code is broken into, which ends pure Python loops; if that does not help, because it
waits in C, the run is ended without it and its slot is replaced. Of a process that cannot even run
this thread, because C code keeps the interpreter to itself, the watchdog of process.py takes care.
"""

import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from greenroom.errors import AppError
from greenroom.logs import get_logger
from greenroom_workers.active_run import ActiveRun, Stop
from greenroom_workers.execution import Executor
from greenroom_workers.own_tasks import Stray
from greenroom_workers.run_threads import break_into

log = get_logger(__name__)

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 5.0
"""Between the wish to stop, the breaking in, and the giving up."""


class StuckRuns:
    """A thread that looks at the active runs once a second, as long as there are any."""

    def __init__(self, executor: Executor, replace_slot: Callable[[], None]) -> None:
        self.executor = executor
        self.replace_slot = replace_slot
        """Puts a new thread in the place of one that is lost."""
        self._answers: dict[ActiveRun, float] = {}
        """When each run's loop last answered."""
        self._broken_at: dict[ActiveRun, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stuck", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self.executor.has_begun.set()

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            self._await_runs()
            active = list(self.executor.active.values())
            for run in active:
                try:
                    self._look_at(run)
                except (AppError, SQLAlchemyError) as error:
                    log.warning(
                        "stuck run not ended",
                        run_id=str(run.claim.lease.run_id),
                        thread_id=str(run.claim.lease.thread_id),
                        error=repr(error),
                    )
            for memory in (self._answers, self._broken_at):
                for run in memory.keys() - active:
                    del memory[run]
            self._look_at_strays()

    def _await_runs(self) -> None:
        """Sleep while there is nobody to look at."""
        self.executor.has_begun.clear()
        if not (self._stopped.is_set() or self.executor.active or self.executor.strays):
            for memory in (self._answers, self._broken_at):
                memory.clear()
            self.executor.has_begun.wait()

    def _look_at(self, run: ActiveRun) -> None:
        now = time.monotonic()
        overdue = run.started + self.executor.config.run_timeout_seconds + LOOK_SECONDS
        if run.stop is None and now > overdue:
            run.request_stop(Stop.TIMEOUT)
        if run.stopped_at is None or self._is_patient(run, now):
            return
        broken_at = self._broken_at.get(run)
        if broken_at is None:
            if run.break_in():
                self._broken_at[run] = now
                log.warning(
                    "graph blocks its thread, breaking in",
                    run_id=str(run.claim.lease.run_id),
                    thread_id=str(run.claim.lease.thread_id),
                    graph_id=run.claim.graph_id,
                )
        elif now - broken_at > PATIENCE_SECONDS and run.stop is not Stop.SHUTDOWN:
            self.executor.abandon(run)
            self.replace_slot()

    def _is_patient(self, run: ActiveRun, now: float) -> bool:
        """Whether the run's loop still answers, and so ends the run by itself."""
        if run not in self._answers:
            self._answers[run] = now
        run.call_soon(lambda: self._answers.update({run: time.monotonic()}))
        return now - self._answers[run] < PATIENCE_SECONDS

    def _look_at_strays(self) -> None:
        now = time.monotonic()
        for stray in list(self.executor.strays):
            if not stray.loop.nodes.busy:
                self._bury(stray)
            elif now - stray.since > PATIENCE_SECONDS and not stray.was_broken_into:
                stray.was_broken_into = True
                if stray.active.stop is None:
                    continue
                log.warning(
                    "a node works on after its run has ended, breaking in",
                    run_id=str(stray.active.claim.lease.run_id),
                    thread_id=str(stray.active.claim.lease.thread_id),
                    graph_id=stray.active.claim.graph_id,
                )
                for ident in list(stray.loop.nodes.busy):
                    break_into(ident)

    def _bury(self, stray: Stray) -> None:
        stray.loop.nodes.shutdown()
        stray.loop.close()
        self.executor.strays.remove(stray)
