"""Signals as a web process sends them: rings of many requests at once travel together."""

from typing import Any

import gevent

from greenroom.signals.bell import Bell
from greenroom.signals.sender import Signals

GATHER_SECONDS = 0.003
"""After a ring, what the next may wait for more. On a quiet server nothing waits."""


class GatheringSignals(Signals):
    """For a process that gevent has patched: `ring` does not wait for Redis.

    To ring is an eighth of the work of a request that starts a run, and waking Redis most of it.
    """

    def __init__(self, *options: Any) -> None:
        super().__init__(*options)
        self.bell = Bell(self.client, self.keys.bell, is_alone=True)
        self._rings = 0
        self._is_ringing = False

    def ring(self, times: int = 1) -> bool:
        """Wake as many workers' slots, now or in a moment; True: whether it worked is not known."""
        self._rings += times
        if not self._is_ringing:
            self._is_ringing = True
            gevent.spawn(self._ring_for_all)
            # It sends while this request goes on.
            gevent.sleep(0)
        return True

    def _ring_for_all(self) -> None:
        try:
            while self._rings:
                times, self._rings = self._rings, 0
                super().ring(times)
                gevent.sleep(GATHER_SECONDS)
        finally:
            self._is_ringing = False
