"""A worker process's sign of life: it renews its leases, and notices when it has lost them.

A native thread with a connection of its own and nothing else to do, so that neither busy graphs
nor a long sweep keep it from its work.
"""

import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from greenroom.config import Config
from greenroom.database.engine import Database
from greenroom.errors import AppError
from greenroom.logs import get_logger
from greenroom.queue import life
from greenroom_workers.active_run import Stop
from greenroom_workers.claims import Claims

log = get_logger(__name__)


class Heartbeat:
    """Prolongs every lease of this process in one statement, three times within each lease."""

    def __init__(self, config: Config, database: Database, claims: Claims) -> None:
        self.config = config
        self.database = database
        self.claims = claims
        self._heard_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._guard = threading.Thread(target=self._guard_leases, name="leases", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._heard_at = time.monotonic()
        self._thread.start()
        self._guard.start()

    def stop(self) -> None:
        """End after the current beat."""
        self._stopped.set()
        self._thread.join(timeout=5)
        self._guard.join(timeout=5)

    def is_cut_off(self) -> bool:
        """Whether Postgres has not answered for two beats.

        It may still hear us: a run that we claimed then would be ours, and we would not know.
        """
        return time.monotonic() - self._heard_at > 2 * self.config.renew_seconds

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self._beat(began)
            except (AppError, SQLAlchemyError) as error:
                log.warning("leases not renewed", error=repr(error))
            self._stopped.wait(max(0.0, began + self.config.renew_seconds - time.monotonic()))

    def _beat(self, began: float) -> None:
        """Renew; stop the runs that we have lost or that somebody wants to stop."""
        active = list(self.claims.executor.active.values())
        with self.database.statement() as connection:
            leases = [run.claim.lease for run in active]
            held = life.renew_leases(connection, leases, self.config.lease_seconds)
            for run in active:
                if run.claim.lease.run_id in held:
                    run.leased_at = began
            life.beat(connection, self.claims.worker_id, self.claims.slots)
        self._heard_at = began
        for run in active:
            lease = run.claim.lease
            if lease.run_id not in held:
                # It may have ended while we asked: then nobody listens.
                run.request_stop(Stop.LOST)
            elif (wish := held[lease.run_id]) is not None:
                run.request_stop(Stop.CANCEL, wish)

    def _guard_leases(self) -> None:
        """Give a run up when its lease ends: another worker may have it by now.

        A thread apart, because the heart may hang in a connection that neither answers nor ends.
        """
        pause = 0.0
        while not self._stopped.wait(pause):
            pause = self.config.renew_seconds
            for run in list(self.claims.executor.active.values()):
                left = run.leased_at + self.config.lease_seconds - time.monotonic()
                if left > 0:
                    pause = min(pause, left)
                elif run.stop is not Stop.LOST:
                    lease = run.claim.lease
                    log.warning(
                        "lease ran out",
                        run_id=str(lease.run_id),
                        thread_id=str(lease.thread_id),
                    )
                    run.request_stop(Stop.LOST)
