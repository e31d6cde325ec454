"""Which run a thread executes next: one that is due at a bell or a sweep, or at another's end."""

import math
import time
from collections.abc import Callable

from greenroom.config import Config
from greenroom.database.engine import Database
from greenroom.errors import DatabaseUnavailable
from greenroom.logs import get_logger
from greenroom.queue import life
from greenroom.queue.life import Claim, Claimant
from greenroom_workers.active_run import ActiveRun
from greenroom_workers.execution import Executor
from greenroom_workers.reserve import Reserve

log = get_logger(__name__)


class Claims:
    """Claims runs for the threads of a process, and has them executed.

    Args:
        executor: asks us for a run whenever one ends (`Ends.find_claimant`).
        worker_id: in whose name.
        reserve: who may take over a part of the slots; None: nobody waits for it.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        executor: Executor,
        worker_id: str,
        reserve: Reserve | None = None,
    ) -> None:
        self.config = config
        self.database = database
        self.executor = executor
        self.worker_id = worker_id
        self.reserve = reserve
        executor.ends.find_claimant = self._find_claimant
        self.retire_thread: Callable[[], None] = lambda: None
        """Called in a thread that is not wanted any more: that of an abandoned run whose code lets
        go after all, and of a slot that the second process takes."""
        self.has_bell: Callable[[], bool] = lambda: False
        """Whether a bell has been heard that no thread has answered yet."""
        self.is_cut_off: Callable[[], bool] = lambda: False
        """Whether Postgres may have stopped answering: nothing is claimed then."""
        self._looked_in_vain_at = -math.inf

    @property
    def slots(self) -> int:
        """Runs that this process executes at once."""
        return self.config.slots + (self.reserve.slots if self.reserve else 0)

    @property
    def free_slots(self) -> int:
        """Those that execute nothing."""
        return self.slots - len(self.executor.active)

    def drain(self, *, rung_at: float = math.inf, is_suspect: bool = False) -> None:
        """Execute due runs, one after another, until none is left or the process stops.

        Args:
            rung_at: when the bell for it was heard, by the monotonic clock. Whoever looked in vain
                since then has looked for this bell, too: a run is committed before its bell rings.
            is_suspect: take the runs that must be alone in their process.
        Raises:
            DatabaseUnavailable: while claiming.
        """
        while not self.executor.is_stopping and self._looked_in_vain_at <= rung_at:
            if self.is_cut_off():
                log.debug("nothing claimed: postgres does not answer")
                return
            asked_at = time.monotonic()
            with self.database.direct() as connection:
                claim = life.claim_run(
                    connection, self.worker_id, self.config.lease_seconds, is_suspect=is_suspect
                )
            if claim is None:
                if not is_suspect:
                    self._looked_in_vain_at = max(asked_at, self._looked_in_vain_at)
                return
            ended = self._execute_all(claim, asked_at, is_suspect=is_suspect)
            if ended.is_abandoned or (self.reserve is not None and self.reserve.takes_slot()):
                self.retire_thread()
                return
            if not (is_suspect or self.executor.io.is_redis_away or self._must_look_again(ended)):
                return

    def is_work_due(self) -> bool:
        """Look whether a run is due, without claiming it; True when Postgres does not tell."""
        if self.is_cut_off():
            return True
        try:
            with self.database.direct() as connection:
                return life.is_work_due(connection)
        except DatabaseUnavailable as error:
            log.debug("postgres does not tell what is due", error=repr(error))
            return True

    def _execute_all(self, claim: Claim, asked_at: float, *, is_suspect: bool) -> ActiveRun:
        """Execute a claimed run, and those that are claimed with the ends of others; the last."""
        while True:
            ended = self.executor.execute(claim, asked_at, is_suspect=is_suspect)
            if self.reserve is not None:
                self.reserve.note_end(is_work_left=ended.is_work_left)
            if ended.next_claim is None:
                return ended
            claim, asked_at = ended.next_claim, ended.next_leased_at

    def _find_claimant(self, active: ActiveRun) -> Claimant | None:
        """Whoever claims a run along with another's end: we, while each thread has one to execute.

        Else a bell wakes an idle thread for it.
        """
        may_claim = (
            active.claims_next
            and self._is_full()
            and not (self.executor.is_stopping or self.is_cut_off())
            and not (self.reserve is not None and self.reserve.wants_slot)
        )
        return Claimant(self.worker_id, self.config.lease_seconds) if may_claim else None

    def _must_look_again(self, ended: ActiveRun) -> bool:
        """Whether something is due that no idle thread of ours will be woken for.

        Where one is idle, a bell that has been heard is its to answer. With all of them busy we are
        the next: bells can wait, here and in Redis, until a look finds nothing.
        """
        return ended.is_work_left and (self._is_full() or not self.has_bell())

    def _is_full(self) -> bool:
        """Whether every thread but the one that asks executes a run."""
        return self.free_slots <= 1
