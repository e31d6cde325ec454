"""What the web process and a worker's upkeep tell the others through Redis."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

import redis

from greenroom import wire
from greenroom.logs import get_logger
from greenroom.queue.states import CancelAction
from greenroom.signals.bell import Bell
from greenroom.signals.connection import PAUSE_SECONDS
from greenroom.signals.keys import CANCEL_SECONDS, Keys

log = get_logger(__name__)

SHOW = "show"
"""To a running run: make events of generation 2 from now on."""


class Signals:
    """Best effort: each method answers whether the signal was sent, and logs when it was not."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client = client
        self.keys = keys
        self.bell = Bell(client, keys.bell)
        self._is_away = False

    def ring(self, times: int = 1) -> bool:
        """Wake as many workers' slots."""
        return self._try("bell", lambda: self.bell.ring(times))

    def cancel(self, run_ids: Iterable[UUID], action: str) -> bool:
        """Tell the workers of running runs to stop; `action` is a CancelAction, or `delete`."""
        wishes = {str(run_id): str(action) for run_id in run_ids}
        return not wishes or self._try("cancel", lambda: self._send_wishes(wishes))

    def show(self, run_ids: Iterable[UUID]) -> bool:
        """Tell the workers of running runs that somebody reads their numbered events."""
        wishes = wire.dumps({str(run_id): SHOW for run_id in run_ids})
        return self._try("show", lambda: self.client.publish(self.keys.control, wishes))

    def publish(self, thread_id: UUID, message: bytes) -> bool:
        """Send one message to everyone who streams a thread."""
        channel = self.keys.events(thread_id)
        return self._try("event", lambda: self.client.publish(channel, message))

    def tell(self, thread_id: UUID, messages: Sequence[bytes]) -> int | None:
        """Send messages as `publish` does; how many listen, None when Redis does not say."""
        channel = self.keys.events(thread_id)
        counts: list[int] = []

        def send() -> None:
            if len(messages) == 1:
                counts.append(self.client.publish(channel, messages[0]))
                return
            with self.client.pipeline(transaction=False) as pipeline:
                for message in messages:
                    pipeline.publish(channel, message)
                counts.extend(pipeline.execute())

        return counts[-1] if self._try("event", send) and counts else None

    def publish_numbered(self, thread_id: UUID, message: bytes) -> bool:
        """Send one message to everyone who streams a thread's numbered events."""
        channel = self.keys.numbered_events(thread_id)
        return self._try("event", lambda: self.client.publish(channel, message))

    def has_listeners(self, thread_id: UUID) -> bool:
        """Whether anybody streams a thread; False when Redis does not say."""
        counts: list[int] = []

        def ask() -> None:
            ((_, count),) = self.client.pubsub_numsub(self.keys.events(thread_id))
            counts.append(count)

        return self._try("question for listeners", ask) and bool(counts[0])

    def is_alive(self) -> bool:
        """Ask Redis now, whatever went wrong before."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def _send_wishes(self, wishes: Mapping[str, str]) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            for run_id, action in wishes.items():
                pipeline.set(self.keys.cancel(UUID(run_id)), action, ex=CANCEL_SECONDS)
            pipeline.publish(self.keys.control, wire.dumps(wishes))
            pipeline.execute()

    def _try(self, what: str, send: Callable[[], object]) -> bool:
        if self._is_away:
            return False
        try:
            send()
        except redis.RedisError as error:
            log.warning("signal not sent", signal=what, error=repr(error))
            self._leave_alone()
            return False
        return True

    def _leave_alone(self) -> None:
        """Ask in the background whether Redis is back: a dead host must not slow every request."""
        if not self._is_away:
            self._is_away = True
            threading.Thread(target=self._wait_for_return, name="redis", daemon=True).start()

    def _wait_for_return(self) -> None:
        while self._is_away:
            time.sleep(PAUSE_SECONDS)
            self._is_away = not self.is_alive()


def read_action(value: str) -> CancelAction:
    """Read an action off the wire; anything but rollback means interrupt (http.md 3.2)."""
    return CancelAction.ROLLBACK if value == CancelAction.ROLLBACK else CancelAction.INTERRUPT
