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
from greenroom_workers.execution import Executor, Stop

log = get_logger(__name__)


class Heartbeat:
    """Prolongs every lease of this process in one statement, three times within each lease."""

    def __init__(self, config: Config, database: Database, executor: Executor) -> None:
        self.config = config
        self.database = database
        self.executor = executor
        self.renewed_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the current beat."""
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self._beat(began)
            except (AppError, SQLAlchemyError) as error:
                log.warning("leases not renewed", error=repr(error))
                self._abandon_if_expired()
            self._stopped.wait(max(0.0, began + self.config.renew_seconds - time.monotonic()))

    def _beat(self, began: float) -> None:
        """Renew; stop the runs that we have lost or that somebody wants to stop."""
        active = list(self.executor.active.values())
        with self.database.statement() as connection:
            leases = [run.claim.lease for run in active]
            held = life.renew_leases(connection, leases, self.config.lease_seconds)
            life.beat(connection, self.executor.worker_id, self.config.slots)
        self.renewed_at = began
        for run in active:
            lease = run.claim.lease
            if lease.run_id not in held:
                # It may have ended while we asked: then nobody listens.
                run.request_stop(Stop.LOST)
            elif (wish := held[lease.run_id]) is not None:
                run.request_stop(Stop.CANCEL, wish)

    def _abandon_if_expired(self) -> None:
        """Cut off from Postgres for as long as a lease: others may run our runs by now."""
        expired_at = self.renewed_at + self.config.lease_seconds
        if time.monotonic() < expired_at:
            return
        for run in list(self.executor.active.values()):
            if run.started < expired_at:
                run.request_stop(Stop.LOST)
