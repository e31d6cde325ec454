"""The states of a run and the ways between them."""

from enum import StrEnum
from uuid import UUID


class RunStatus(StrEnum):
    """Where a run stands; wire words from the SDK.

    pending -> running      claim_run            a worker holds the lease
                            finish_run_if_owned  the same, along with the end of its last run
    running -> success      finish_run_if_owned  the graph reached its end, or asked a human
    running -> error        finish_run_if_owned  the graph raised, or the attempts are used up
    running -> timeout      finish_run_if_owned  BG_JOB_TIMEOUT_SECS ran out
    running -> interrupted  finish_run_if_owned  a wish to cancel was honoured
    pending -> interrupted  cancel_runs          cancelled before it started
    running -> pending      release_run          shutdown (no attempt charged) or a passing fault
    running -> pending      requeue_expired      its worker stopped renewing the lease
    """

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


NOBODY = UUID(int=0)
"""The assistant of a row that only holds its thread's slot, for the time of a state update: no run
to anyone who lists runs."""

ACTIVE = frozenset({RunStatus.PENDING, RunStatus.RUNNING})
TERMINAL = frozenset(RunStatus) - ACTIVE


class QueueState(StrEnum):
    """Where a pending run waits. A thread has at most one run that is ready or running: its slot.

    scheduled -> ready | queued  settle_due_run  its time has come
    queued -> ready              promote_next    the slot became free, and it is the oldest
    ready -> (running)           claim_run, finish_run_if_owned
    """

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    READY = "ready"


class CancelAction(StrEnum):
    """What shall become of a run that somebody wants to stop."""

    INTERRUPT = "interrupt"
    """Keep the run and its checkpoints; status interrupted."""
    ROLLBACK = "rollback"
    """Remove the run and every checkpoint that it wrote."""
