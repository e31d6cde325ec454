"""The bell: a Dramatiq message without arguments that says "look", never what to look at."""

from typing import Final
from uuid import uuid4

import redis
from dramatiq import Message

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
        self.list = f"{namespace}:{QUEUE}"
        self.messages = f"{self.list}.msgs"
        self._rings = 0

    def ring(self, times: int = 1) -> None:
        """Put sentinels on the list, where Dramatiq's own broker would, but all in one round trip.

        Raises:
            redis.RedisError: Redis is away; the sweep will find the run.
        """
        # Now and then is enough: the list may grow by as much in between.
        self._rings += 1
        if self._rings % LOOK_EVERY == 0 and self.client.llen(self.list) > LONGEST_QUEUE:
            self._rings -= 1
            return
        if not (keys := [str(uuid4()) for _ in range(times)]):
            return
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.hset(
                self.messages, items=[item for key in keys for item in (key, sentinel(key))]
            )
            pipeline.rpush(self.list, *keys)
            pipeline.execute()


def sentinel(key: str) -> bytes:
    """A message of Dramatiq's that has nothing to say; `key` is what Redis knows it by."""
    return Message(
        queue_name=QUEUE,
        actor_name=ACTOR,
        args=(),
        kwargs={},
        options={"redis_message_id": key},
    ).encode()
