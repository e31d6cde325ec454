"""The one actor. Its message is a sentinel: what to do is in Postgres."""

import dramatiq

from greenroom.signals.bell import ACTOR, LOOK, QUEUE
from greenroom_workers.broker import BellBroker, heard_at
from greenroom_workers.claims import Claims


def declare_actors(broker: BellBroker, claims: Claims) -> None:
    """Bind the bell to what claims runs."""

    @dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name=ACTOR)
    def execute_due_runs() -> None:
        if broker.is_resting:
            broker.leave([LOOK])
        else:
            claims.drain(rung_at=heard_at())
