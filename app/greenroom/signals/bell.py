"""The bell: a Dramatiq message without arguments that says "look", never what to look at."""

from typing import Final

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

QUEUE: Final = "runs"
ACTOR: Final = "execute_due_runs"
LONGEST_QUEUE: Final = 1000
"""Sentinels beyond this many say nothing new: workers drain the table, not the list."""
LOOK_EVERY = 50
"""Rings between two looks at the length of the list."""


class Bell:
    """Wakes workers. Losing a ring costs one sweep interval, an extra one a cheap query."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self.client = client
        self.broker = RedisBroker(client=client, namespace=namespace, middleware=[])
        self.list = f"{namespace}:{QUEUE}"
        self._rings = 0

    def ring(self, times: int = 1) -> None:
        """Put sentinels on the list.

        Raises:
            redis.RedisError: Redis is away; the sweep will find the run.
        """
        # Now and then is enough: the list may grow by as much in between.
        self._rings += 1
        if self._rings % LOOK_EVERY == 0 and self.client.llen(self.list) > LONGEST_QUEUE:
            self._rings -= 1
            return
        for _ in range(times):
            self.broker.enqueue(
                dramatiq.Message(queue_name=QUEUE, actor_name=ACTOR, args=(), kwargs={}, options={})
            )
