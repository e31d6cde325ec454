"""Sends what is owed to webhooks: claims due deliveries, posts them, records what came of it.

At least once: an attempt that succeeds while its worker dies, or while Postgres is away, is made
again. Receivers tell a repetition by `Greenroom-Delivery`.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from greenroom.config import Config
from greenroom.database.engine import Database
from greenroom.errors import AppError
from greenroom.logs import get_logger
from greenroom.webhooks import queries
from greenroom.webhooks.policy import HostUnknown, WebhookRefused
from greenroom.webhooks.post import TOTAL_SECONDS, Letter, NotDelivered, post
from greenroom.webhooks.queries import Claimed
from greenroom.webhooks.settings import Settings

T = TypeVar("T")
log = get_logger(__name__)

SENDERS: Final = 32
"""Attempts under way at once in one process; each is a socket, not a thread."""
SENDERS_PER_HOST: Final = 8
"""So that one slow receiver does not take every sender."""
MAX_ATTEMPTS: Final = 6
FIRST_RETRY_SECONDS: Final = 5.0
RETRY_FACTOR: Final = 5
"""Retries after 5 s, 25 s, 2 min, 10 min, 52 min: a receiver may be away for an hour."""
LEASE_SECONDS: Final = 3 * TOTAL_SECONDS
KEEP: Final = timedelta(days=7)
"""How long the log tells of deliveries that have ended."""
SWEEP_LIMIT: Final = 500
SWEEP_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0
"""What attempts that are under way get to end in; what is left is made again elsewhere."""
RETRIED = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
"""Of the answers that blame us, those that are about the moment and not about the request."""


class Deliveries:
    """A worker process's senders: one thread, one event loop, one connection to Postgres."""

    def __init__(self, config: Config, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.poll_seconds = config.sweep_seconds
        self._stopping = False
        self._next_sweep = time.monotonic()
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._woken = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        # A resolver may hold its thread for long after its attempt was given up.
        self._loop.set_default_executor(ThreadPoolExecutor(2 * SENDERS, "resolver"))
        self._database_thread = ThreadPoolExecutor(1, "delivery records")
        self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)

    def start(self) -> None:
        """Begin, with what others have left."""
        self._thread.start()

    def wake(self) -> None:
        """Say that a run with a webhook has ended; from any thread, and also after the end."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._woken.set)

    def stop(self) -> None:
        """Claim no more, and give attempts under way a moment to end."""
        self._stopping = True
        self.wake()
        self._thread.join(timeout=2 * STOP_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._work())
        finally:
            self._database_thread.shutdown(wait=False)
            self._loop.close()

    async def _work(self) -> None:
        while not self._stopping:
            self._woken.clear()
            await self._guarded("claim", self._claim_due())
            if time.monotonic() >= self._next_sweep:
                self._next_sweep = time.monotonic() + SWEEP_SECONDS
                await self._guarded("sweep", self._ask_database(sweep))
            try:
                async with asyncio.timeout(self.poll_seconds):
                    await self._woken.wait()
            except TimeoutError:
                continue
        if self._under_way:
            _, late = await asyncio.wait(list(self._under_way), timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _guarded(self, what: str, work: Awaitable[None]) -> None:
        """A fault of the database ends neither the loop nor an attempt that others wait for."""
        try:
            await work
        except (AppError, SQLAlchemyError) as error:
            log.warning("deliveries failed", step=what, error=repr(error))

    async def _ask_database(self, work: Callable[[Connection], T]) -> T:
        """Use the connection, away from the loop: a hanging database must not stop the senders."""

        def use() -> T:
            with self.database.statement() as connection:
                return work(connection)

        return await self._loop.run_in_executor(self._database_thread, use)

    def _has_due(self) -> bool:
        with self.database.direct() as connection:
            return queries.has_due(connection, MAX_ATTEMPTS)

    async def _claim_due(self) -> None:
        """Start an attempt for each delivery that is due, as far as there are senders."""
        if not await self._loop.run_in_executor(self._database_thread, self._has_due):
            return
        while len(self._under_way) < SENDERS and not self._stopping:
            load = Counter(self._under_way.values())
            busy = [host for host, count in load.items() if count >= SENDERS_PER_HOST]
            claim = partial(
                queries.claim_delivery,
                busy_hosts=busy,
                max_attempts=MAX_ATTEMPTS,
                lease_seconds=LEASE_SECONDS,
            )
            claimed = await self._ask_database(claim)
            if claimed is None:
                return
            task = self._loop.create_task(self._guarded("record", self._deliver(claimed)))
            self._under_way[task] = claimed.host
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        # A sender is free: something may have waited for it.
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # The lease brings the delivery back.
            log.error("delivery broke", exc_info=error)

    async def _deliver(self, claimed: Claimed) -> None:
        """Make one attempt, and record what came of it."""
        status, reason, is_final = await self._attempt(claimed)
        fields = {
            "delivery_id": str(claimed.delivery_id),
            "run_id": str(claimed.run_id),
            "host": claimed.host,
            "attempt": claimed.attempt,
            "status": status,
        }
        if reason is None:
            record = partial(queries.record_delivered, claimed=claimed, status=status)
            await self._ask_database(record)
            log.info("webhook delivered", **fields)
            return
        retry_seconds = None
        if not is_final and claimed.attempt < MAX_ATTEMPTS:
            retry_seconds = FIRST_RETRY_SECONDS * RETRY_FACTOR ** (claimed.attempt - 1)
        record = partial(
            queries.record_failed,
            claimed=claimed,
            status=status,
            error=reason,
            retry_seconds=retry_seconds,
        )
        await self._ask_database(record)
        event = "webhook not delivered" if retry_seconds else "webhook given up"
        log.warning(event, **fields, reason=reason, retry_seconds=retry_seconds)

    async def _attempt(self, claimed: Claimed) -> tuple[int | None, str | None, bool]:
        """Post: the receiver's status, why it failed (None: it did not), and whether for good."""
        if not self.settings.is_enabled:
            return None, "webhooks are switched off (http.disable_webhooks)", True
        letter = Letter(claimed.delivery_id, claimed.url, claimed.body, claimed.sent_at)
        try:
            status = await post(self.settings, letter)
        except (HostUnknown, NotDelivered) as error:
            return None, str(error), False
        except WebhookRefused as error:
            return None, str(error), True
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return status, None, True
        is_final = status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in RETRIED
        return status, f"answered with HTTP {status}", is_final


def sweep(connection: Connection) -> None:
    """End what was lost at its last attempt, and forget what ended long ago."""
    queries.end_lost(
        connection,
        max_attempts=MAX_ATTEMPTS,
        error="the worker was lost during the last attempt",
        limit=SWEEP_LIMIT,
    )
    queries.sweep_ended(connection, KEEP, SWEEP_LIMIT)
