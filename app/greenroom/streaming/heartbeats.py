"""The heartbeats of all streams of a process."""

import time
from typing import Final

import gevent

from greenroom.streaming.subscription import Subscription

LOOKS: Final = 20
"""In an interval, for the streams that are due: each beat comes so much early, never late."""


class Heartbeats:
    """Knows by when to look at each stream again, so that nobody looks at all of them."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._pause_seconds = interval_seconds / LOOKS
        self._due: dict[int, set[Subscription]] = {}
        """By look, counted in pauses of the monotonic clock."""
        self._is_looking = False

    def add(self, subscription: Subscription) -> None:
        """Begin to look after a stream; its first heartbeat is an interval away at least."""
        self._put(subscription, self._look_before(time.monotonic() + self._interval_seconds))
        if not self._is_looking:
            self._is_looking = True
            gevent.spawn(self._look)

    def discard(self, subscription: Subscription) -> None:
        """Forget a stream."""
        if others := self._due.get(subscription.look):
            others.discard(subscription)

    def _put(self, subscription: Subscription, look: int) -> None:
        subscription.look = look
        self._due.setdefault(look, set()).add(subscription)

    def _look_before(self, at: float) -> int:
        return int(at / self._pause_seconds)

    def _look(self) -> None:
        """Send what is due, while there are streams."""
        look = self._look_before(time.monotonic())
        while self._due:
            look += 1
            gevent.sleep(max(0.0, look * self._pause_seconds - time.monotonic()))
            for subscription in self._due.pop(look, ()):
                self._send(subscription, look)
        self._is_looking = False

    def _send(self, subscription: Subscription, look: int) -> None:
        next_look_at = (look + 1) * self._pause_seconds
        if subscription.beat_at < next_look_at:
            subscription.beat()
        if subscription.beat_at < next_look_at:
            # It is busy: what it will be due for is an interval away from when it is not.
            again_at = time.monotonic() + self._interval_seconds
        else:
            again_at = subscription.beat_at
        self._put(subscription, max(look + 1, self._look_before(again_at)))
