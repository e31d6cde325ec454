"""How runs end: judged, written while the lease holds, and only then made known."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg2
from langgraph.pregel import Pregel
from langgraph.types import StateSnapshot
from sqlalchemy.exc import SQLAlchemyError

from greenroom import wire
from greenroom.config import Config
from greenroom.database.engine import Database
from greenroom.errors import DatabaseUnavailable, LeaseLost
from greenroom.logs import get_logger
from greenroom.queue import life
from greenroom.queue.life import Checkpoints, Claim, Claimant, EndEvents, Outcome
from greenroom.queue.states import CancelAction, RunStatus
from greenroom.runs.queries import delete_checkpoints
from greenroom.signals.sender import Signals
from greenroom_workers.active_run import ActiveRun, Stop
from greenroom_workers.inputs import is_temporary
from greenroom_workers.outcomes import answer_of, describe_error, interrupted, outcome_of

log = get_logger(__name__)

RETRY_BASE_SECONDS = 0.5


class Ends:
    """Ends the runs of a process. All but `classify` raise DatabaseUnavailable."""

    def __init__(
        self,
        config: Config,
        database: Database,
        signals: Signals,
        wake_deliveries: Callable[[], None],
    ) -> None:
        self.config = config
        self.database = database
        self.signals = signals
        self.wake_deliveries = wake_deliveries
        self.find_claimant: Callable[[ActiveRun], Claimant | None] = lambda _: None
        """Who claims the next run along with an end; None: nobody."""

    def classify(
        self,
        active: ActiveRun,
        graph: Pregel[Any, Any, Any, Any] | None,
        snapshot: StateSnapshot | None,
        failure: BaseException | None,
    ) -> Outcome | None:
        """Describe how a run ended; `failure` is what its code raised."""
        claim = active.claim
        if active.stop is Stop.TIMEOUT:
            seconds = f"{self.config.run_timeout_seconds:g}"
            error = {"error": "TimeoutError", "message": f"the run took longer than {seconds} s"}
            return outcome_of(claim, graph, snapshot, status=RunStatus.TIMEOUT, error=error)
        if active.stop is not None:
            return outcome_of(claim, graph, snapshot, status=RunStatus.INTERRUPTED)
        if failure is not None:
            log.warning(
                "graph failed",
                run_id=str(claim.lease.run_id),
                thread_id=str(claim.lease.thread_id),
                graph_id=claim.graph_id,
                exc_info=failure,
            )
            error = describe_error(failure)
            return outcome_of(claim, graph, snapshot, status=RunStatus.ERROR, error=error)
        return outcome_of(claim, graph, snapshot, status=RunStatus.SUCCESS)

    async def conclude(self, active: ActiveRun, outcome: Outcome | None) -> str:
        """Write the end, then announce it; again when a wish to cancel came in between.

        Raises:
            DatabaseUnavailable: also of the last checkpoints.
        """
        claim, events = active.claim, active.events
        active.is_concluding = True
        protocol, end = active.protocol, None
        if protocol is not None:
            # After the end nothing is kept any more.
            await protocol.events.flushed()
        while True:
            action = active.action
            if action is CancelAction.ROLLBACK:
                end = protocol.end_rolled_back() if protocol else None
                has_ended, status, frame = self._roll_back(claim, end), "rolled back", b""
                answer = b""
            else:
                final = self._final(active, outcome)
                frame = events.end_frame(wire.dumps(final.error)) if final.error else b""
                end = protocol.end(final) if protocol else None
                finish = partial(self._finish, active, final, action, frame, end)
                try:
                    has_ended = await self._with_checkpoints(active, finish)
                except LeaseLost:
                    # Also of a run that was broken off, where nobody else would take it.
                    return "lost"
                status, answer = final.status, answer_of(final)
            if has_ended:
                break
            with self.database.statement() as connection:
                is_ours, wish = life.find_wish(connection, claim.lease)
            if not is_ours or wish == action:
                return "lost"
            active.action = wish
        events.announce_end(frame, answer)
        if protocol is not None and end is not None:
            protocol.events.announce_end(end)
        return str(status)

    async def _with_checkpoints(
        self, active: ActiveRun, finish: Callable[[Checkpoints | None], bool]
    ) -> bool:
        if active.saver is None:
            return finish(None)
        return await active.saver.taken_with(finish)

    def _final(self, active: ActiveRun, outcome: Outcome | None) -> Outcome:
        """The end to write, seen in the light of a wish to cancel that came late."""
        if outcome is None:
            outcome = outcome_of(active.claim, None, None, status=RunStatus.INTERRUPTED)
        wanted = active.action is CancelAction.INTERRUPT
        if outcome.status is RunStatus.INTERRUPTED or (wanted and active.stop is not Stop.TIMEOUT):
            return interrupted(active.claim, outcome)
        return outcome

    def _finish(
        self,
        active: ActiveRun,
        outcome: Outcome,
        action: CancelAction | None,
        frame: bytes,
        end_events: EndEvents | None,
        checkpoints: Checkpoints | None,
    ) -> bool:
        claim, events = active.claim, active.events
        asked_at = time.monotonic()
        options: dict[str, Any] = {
            "cancel_action": action,
            "is_temporary": is_temporary(claim),
            "end_frame": (events.next_seq, frame) if frame and events.is_logged else None,
            "end_events": end_events,
            "checkpoints": checkpoints,
        }
        try:
            if claim.has_webhook:
                with self.database.transaction() as connection:
                    finished = life.finish_run_and_owe(connection, claim.lease, outcome, **options)
            else:
                options["claimant"] = self.find_claimant(active)
                with self.database.direct() as direct:
                    finished = life.finish_run_if_owned(direct, claim.lease, outcome, **options)
        except (DatabaseUnavailable, SQLAlchemyError, psycopg2.Error) as error:
            if checkpoints is None:
                raise
            # It may be the checkpoints': what becomes of them alone tells.
            log.info(
                "run not ended with its checkpoints: once more without",
                run_id=str(claim.lease.run_id),
                thread_id=str(claim.lease.thread_id),
                error=repr(error),
            )
            return False
        if finished is None:
            return False
        active.is_work_left = finished.has_next or finished.is_work_left
        active.next_claim, active.next_leased_at = finished.claim, asked_at
        if claim.has_webhook:
            self.wake_deliveries()
        if finished.has_next:
            self.signals.ring()
        return True

    def _roll_back(self, claim: Claim, end_events: EndEvents | None) -> bool:
        """Remove a run and what it wrote, as if it had never been."""
        run_id, thread_id = claim.lease.run_id, claim.lease.thread_id
        with self.database.transaction() as connection:
            last_seq = end_events.last_seq if end_events else None
            if not life.remove_run_if_owned(connection, claim.lease, last_seq):
                return False
            if not is_temporary(claim):
                # Only now: a checkpoint that was under way is written or refused.
                delete_checkpoints(connection, thread_id, [run_id])
            has_next = life.settle(connection, thread_id)
        if has_next:
            self.signals.ring()
        return True

    async def retry(self, active: ActiveRun, error: DatabaseUnavailable) -> str:
        """A passing fault of the database: back to the queue, or the end after the last attempt."""
        claim = active.claim
        log.warning(
            "attempt failed",
            run_id=str(claim.lease.run_id),
            thread_id=str(claim.lease.thread_id),
            attempt=claim.attempt,
            error=repr(error.__cause__ or error),
        )
        if claim.attempt >= self.config.max_attempts:
            described = describe_error(error)
            outcome = outcome_of(claim, None, None, status=RunStatus.ERROR, error=described)
            return await self.conclude(active, outcome)
        delay_seconds = RETRY_BASE_SECONDS * 2**claim.attempt
        with self.database.statement() as connection:
            life.release_run(connection, claim.lease, delay_seconds=delay_seconds, is_charged=True)
        return "to be tried again"
