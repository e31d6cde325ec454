"""Every key and channel that we use in Redis, and how long each lives.

Each carries the deployment's id: PubSub ignores Redis's database numbers, and two deployments on
one Redis must never hear one another. FLUSHALL at any time loses no run.
"""

from dataclasses import dataclass
from uuid import UUID

CANCEL_SECONDS = 120
"""Life of a cancel flag. The wish itself is in the run's row; this only makes it quick."""
ATTEMPT_SECONDS = 3600
"""Life of the count of attempts: a hint for whoever looks into Redis; the row decides."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names below `<prefix>greenroom:<deployment id>:`."""

    prefix: str
    deployment_id: UUID

    def name(self, *parts: object) -> str:
        """Join the parts below the deployment's own prefix."""
        return ":".join([f"{self.prefix}greenroom", str(self.deployment_id), *map(str, parts)])

    @property
    def bell(self) -> str:
        """Prefix of the bell: a list of sentinels, until consumed."""
        return self.name("bell")

    def cancel(self, run_id: UUID) -> str:
        """String: the action. Set with the wish, read once by a worker at the start of the run."""
        return self.name("cancel", run_id)

    def attempt(self, run_id: UUID) -> str:
        """String: how often the run was claimed. Set at every claim."""
        return self.name("attempt", run_id)

    @property
    def rates(self) -> str:
        """Prefix of counters of requests, one for each caller; each lives as long as its window."""
        return self.name("rates")

    @property
    def control(self) -> str:
        """Channel on which every worker process hears the wishes to cancel; holds nothing."""
        return self.name("control")

    def events(self, thread_id: UUID) -> str:
        """Channel of a thread's stream events: those of all its runs, one after another."""
        return self.name("events", thread_id)

    def numbered_events(self, thread_id: UUID) -> str:
        """Channel of the same for clients of generation 2: batches of spans."""
        return self.name("numbered", thread_id)
