"""The pipeline of a claimed run: open graph -> stream -> classify -> finish -> announce.

One Dramatiq thread and one event loop for each run: a node that blocks stalls its own run alone.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import redis
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel import Pregel
from langgraph.types import StateSnapshot

from greenroom import wire
from greenroom.config import Config
from greenroom.database.engine import Database
from greenroom.errors import DatabaseUnavailable, LeaseLost
from greenroom.graphs.checkpointer import FencedSaver
from greenroom.graphs.later import Later
from greenroom.graphs.registry import Registry
from greenroom.graphs.serde import make_serde
from greenroom.logs import get_logger
from greenroom.queue import life
from greenroom.queue.life import Claim, Outcome
from greenroom.queue.states import CancelAction, RunStatus
from greenroom.signals.keys import ATTEMPT_SECONDS, Keys
from greenroom.signals.sender import SHOW, Signals
from greenroom.streaming.encoder import Encoder
from greenroom.streaming.replay import milliseconds
from greenroom_workers.active_run import ActiveRun, Stop, flush_apart
from greenroom_workers.ends import Ends
from greenroom_workers.inputs import graph_config, is_temporary
from greenroom_workers.io_thread import IoThread
from greenroom_workers.outcomes import outcome_of
from greenroom_workers.own_tasks import OwnTasks, Stray
from greenroom_workers.parts import parts_of
from greenroom_workers.protocol_run import ProtocolRun, is_native, native_parts
from greenroom_workers.publisher import RunEvents
from greenroom_workers.run_loop import RunLoop
from greenroom_workers.run_threads import GraphStuck

log = get_logger(__name__)

STOP_GRACE_SECONDS = 5.0
"""How long a graph that was asked to stop may take before it is asked again."""
STOP_REQUESTS = 3
"""How often it is asked before its run ends without it."""
FLAG_DELAY_SECONDS = 0.1
"""Until a run's attempt is counted in Redis and its flag is read, or twice that. A wish is in the
row first, where the claim and the end look: the flag is for runs that go on."""
FEW_RUNS = 2
"""Beside so few others a run tells its beginning and its end from its own thread: the I/O loop
would have to wait for the interpreter. Beside more it sends for all of them at once."""
SHOWING = frozenset({"checkpoints", "debug"})
"""Modes that show a client checkpoints, which must be there when it asks for them."""
LEFTOVER_SECONDS = 1.0
"""What tasks that a graph left running get to end in."""


class Executor:
    """Executes runs that were claimed (claims.py); one for a process, used by all its threads."""

    def __init__(
        self,
        config: Config,
        database: Database,
        registry: Registry,
        io: IoThread,
        signals: Signals,
        wake_deliveries: Callable[[], None],
    ) -> None:
        self.config = config
        self.database = database
        self.registry = registry
        self.io = io
        self.signals = signals
        self.keys: Keys = signals.keys
        self.ends = Ends(config, database, signals, wake_deliveries)
        self.serde = make_serde(config.project)
        self.active: dict[UUID, ActiveRun] = {}
        self._coming: set[UUID] = set()
        """Claimed along with the end of another, which is not active any more."""
        self.is_stopping = False
        self.has_begun = threading.Event()
        """Set when a run begins; cleared by whoever has nothing to do without runs."""
        self.strays: list[Stray] = []
        """What ended runs have left at work."""
        self._threads = threading.local()
        self._heeding = Later(io.loop, FLAG_DELAY_SECONDS, FLAG_DELAY_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is claimed."""
        return not (self.active or self._coming)

    def execute(self, claim: Claim, asked_at: float, *, is_suspect: bool = False) -> ActiveRun:
        """Execute a claimed run and make its end known; a fault of ours goes to the log alone.

        Args:
            asked_at: when the claim began, by the monotonic clock.
            is_suspect: another is not to be claimed with its end.
        """
        loop = self._own_loop()
        active = ActiveRun(claim, loop, asked_at, claims_next=not is_suspect)
        active.events = self._events(active)
        if claim.event_seq is not None:
            active.protocol = self._protocol(active, claim.event_seq)
        self.active[claim.lease.run_id] = active
        self._coming.discard(claim.lease.run_id)
        if not self.has_begun.is_set():
            self.has_begun.set()
        if claim.cancel_action is not None:
            active.request_stop(Stop.CANCEL, claim.cancel_action)
        elif self.is_stopping:
            active.request_stop(Stop.SHUTDOWN)
        ids = {"run_id": str(claim.lease.run_id), "thread_id": str(claim.lease.thread_id)}
        try:
            status = loop.run_until_complete(self._run(active))
        except DatabaseUnavailable as error:
            status = "unfinished: the lease will return it"
            log.warning("run left to its lease", **ids, error=str(error))
        except (SystemExit, KeyboardInterrupt) as error:
            status = self._end_after_exit(active, error)
        except GraphStuck:
            flush_apart(active)
            outcome = self.ends.classify(active, None, None, None)
            status = loop.run_until_complete(self.ends.conclude(active, outcome))
        finally:
            if active.next_claim is not None:
                self._coming.add(active.next_claim.lease.run_id)
            # Lost and claimed again by another of our threads, the id may be another's by now.
            if self.active.get(claim.lease.run_id) is active:
                del self.active[claim.lease.run_id]
            self._clear(active)
        seconds = round(time.monotonic() - active.started, 4)
        log.info("run ended", **ids, status=status, attempt=claim.attempt, seconds=seconds)
        return active

    def abandon(self, active: ActiveRun) -> None:
        """End a run whose code never gives its thread back, from another thread.

        Should the code let go one day, whatever it writes is refused: the run has ended.

        Raises:
            DatabaseUnavailable: nothing has changed.
        """
        ids = {
            "run_id": str(active.claim.lease.run_id),
            "thread_id": str(active.claim.lease.thread_id),
        }
        log.error(
            "graph blocks its thread, run ended without it",
            **ids,
            graph_id=active.claim.graph_id,
            reason=active.stop.name if active.stop else None,
        )
        # Its thread has no time for another.
        active.claims_next = False
        if active.stop is not Stop.LOST:
            outcome = self.ends.classify(active, None, None, None)
            status = asyncio.run(self.ends.conclude(active, outcome))
            seconds = round(time.monotonic() - active.started, 4)
            log.info(
                "run ended", **ids, status=status, attempt=active.claim.attempt, seconds=seconds
            )
        active.is_abandoned = True
        if self.active.get(active.claim.lease.run_id) is active:
            del self.active[active.claim.lease.run_id]

    def _own_loop(self) -> RunLoop:
        loop: RunLoop | None = getattr(self._threads, "loop", None)
        if loop is None or loop.is_closed():
            loop = self._threads.loop = RunLoop()
            self._threads.tasks = OwnTasks()
            loop.set_task_factory(self._threads.tasks.make)
            asyncio.set_event_loop(loop)
        return loop

    def _clear(self, active: ActiveRun) -> None:
        """End what the graph left running: it must not leak into the next run."""
        loop = active.loop
        leftover = self._threads.tasks.unfinished()
        for task in leftover:
            task.cancel()
        if leftover:
            waiting = asyncio.wait(leftover, timeout=LEFTOVER_SECONDS)
            with contextlib.suppress(SystemExit, KeyboardInterrupt, GraphStuck):
                loop.run_until_complete(waiting)
        if loop.nodes.busy or any(not task.done() for task in leftover):
            # Something is still at work: it may keep this loop, we take another.
            self.strays.append(Stray(active, loop))
            self._threads.loop = None

    def _end_after_exit(self, active: ActiveRun, error: BaseException) -> str:
        """A node called sys.exit: it ends its run, not the worker."""
        log.error(
            "graph tried to end the process",
            run_id=str(active.claim.lease.run_id),
            thread_id=str(active.claim.lease.thread_id),
            error=repr(error),
        )
        described = {
            "error": type(error).__name__,
            "message": "the graph called sys.exit, which ends its run alone",
        }
        outcome = outcome_of(active.claim, None, None, status=RunStatus.ERROR, error=described)
        flush_apart(active)
        return active.loop.run_until_complete(self.ends.conclude(active, outcome))

    async def _run(self, active: ActiveRun) -> str:
        """Take a claim to its end; the words for the log."""
        claim = active.claim
        events = active.events
        task = asyncio.ensure_future(self._perform(active, events))
        active.begin(task)
        # After the start: the wish in the row came with the claim, and this must not delay the run.
        self._heeding.call(partial(self._begin_heeding, claim.lease.run_id, claim.attempt))
        try:
            await self._supervise(active, task)
            outcome = task.result() if task.done() else self.ends.classify(active, None, None, None)
            if active.stop is None:
                return await self.ends.conclude(active, outcome)
        except asyncio.CancelledError:
            if active.stop is None:
                raise
            outcome = None
        except LeaseLost:
            active.stop, outcome = Stop.LOST, None
        except DatabaseUnavailable as error:
            return await self.ends.retry(active, error)
        if active.stop is Stop.LOST:
            return "lost"
        if active.stop is Stop.SHUTDOWN:
            with self.database.statement() as connection:
                life.release_run(connection, claim.lease, is_charged=False)
            self.signals.ring()
            return "handed back"
        return await self.ends.conclude(active, outcome)

    async def _supervise(self, active: ActiveRun, task: asyncio.Task[Any]) -> None:
        """Wait for the graph; ask it to stop when its time is up, and again while it does not."""
        timeout_seconds = self.config.run_timeout_seconds
        either: set[asyncio.Future[Any]] = {task, active.stopping}
        await asyncio.wait(either, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        if active.stop is None and not task.done():
            active.request_stop(Stop.TIMEOUT)
        for _ in range(STOP_REQUESTS):
            if not task.done():
                await asyncio.wait({task}, timeout=STOP_GRACE_SECONDS)
            if task.done():
                return
            task.cancel()
        log.error(
            "graph does not stop, run ended without it",
            run_id=str(active.claim.lease.run_id),
            thread_id=str(active.claim.lease.thread_id),
            reason=active.stop.name if active.stop else None,
        )

    def _begin_heeding(self, run_id: UUID, attempt: int) -> None:
        """On the I/O loop: no run is woken for it, and all that are due are told at once."""
        active = self.active.get(run_id)
        if active is not None and active.claim.attempt == attempt:
            self.io.spawn(partial(self._heed_flag, run_id, attempt))

    async def _heed_flag(self, run_id: UUID, attempt: int) -> None:
        """Count the attempt in Redis, and read a wish that raced our claim."""
        try:
            _, wish = await self.io.sender.send(
                ("SET", self.keys.attempt(run_id), attempt, "EX", ATTEMPT_SECONDS),
                ("GET", self.keys.cancel(run_id)),
            )
        except (redis.RedisError, OSError) as error:
            log.debug("cancel flag not read", run_id=str(run_id), error=repr(error))
            return
        if wish is not None:
            self.stop_run(run_id, wish.decode())

    def stop_run(self, run_id: UUID, wish: str) -> None:
        """Heed a signal: `interrupt`, `rollback`, or `delete` for a run whose row is gone."""
        active = self.active.get(run_id)
        if active is None:
            return
        if wish == "delete":
            active.request_stop(Stop.LOST)
        elif wish == SHOW:
            active.call_soon(lambda: self._show(active))
        else:
            active.request_stop(Stop.CANCEL, CancelAction(wish))

    def _events(self, active: ActiveRun) -> RunEvents:
        claim = active.claim
        events = RunEvents(
            self.io,
            self.keys,
            claim.lease,
            milliseconds(claim.started_at),
            is_first=claim.is_first,
            is_resumable=bool(claim.kwargs["resumable"]),
            is_heard=claim.is_heard,
            on_lost=lambda: active.request_stop(Stop.LOST),
        )
        if len(self.active) < FEW_RUNS:
            events.send_here = partial(self.signals.tell, claim.lease.thread_id)
        return events

    def _protocol(self, active: ActiveRun, last_seq: int) -> ProtocolRun:
        return ProtocolRun(
            self.io,
            self.keys,
            active.claim,
            last_seq,
            on_lost=lambda: active.request_stop(Stop.LOST),
        )

    def _show(self, active: ActiveRun) -> None:
        """Somebody has opened the first stream of generation 2 on the thread of a run under way."""
        if active.protocol is None and not active.is_concluding:
            active.protocol = self._protocol(active, 0)
            active.protocol.encoder.begin()

    async def _perform(self, active: ActiveRun, events: RunEvents) -> Outcome | None:
        """Run the graph and describe how it ended; None when it was stopped before it began.

        Raises:
            DatabaseUnavailable, LeaseLost: from the checkpointer; anything else became an outcome.
        """
        claim = active.claim
        kwargs = claim.kwargs
        await events.resume()
        if active.protocol is not None:
            await active.protocol.begin()
        events.emit_first(
            "metadata",
            wire.dumps({"run_id": claim.lease.run_id, "attempt": claim.attempt}),
        )
        # Here, while the event is on its way, and not before it.
        log.info(
            "run started",
            run_id=str(claim.lease.run_id),
            thread_id=str(claim.lease.thread_id),
            graph_id=claim.graph_id,
            attempt=claim.attempt,
        )
        config = graph_config(claim)
        active.saver = self._saver(active)
        opened = self.registry.open(
            claim.graph_id,
            config,
            checkpointer=active.saver or InMemorySaver(),
            store=self.io.store,
            access="threads.create_run",
            context=kwargs["context"] or None,
        )
        graph: Pregel[Any, Any, Any, Any] | None = None
        snapshot: StateSnapshot | None = None
        failure: BaseException | None = None
        active.enter()
        try:
            async with opened as graph:
                failure = await self._stream(active, graph, events)
                if active.stop not in {Stop.LOST, Stop.SHUTDOWN}:
                    snapshot = await self._read_state(claim, graph)
        except (asyncio.CancelledError, GraphStuck):
            if active.stop is None:
                raise
        except (DatabaseUnavailable, LeaseLost):
            raise
        except Exception as error:  # noqa: BLE001 (the border to users' factories)
            failure = error
        finally:
            active.leave()
        if active.stop is not Stop.LOST:
            await events.flushed_to_log()
            if active.protocol is not None:
                await active.protocol.events.flushed()
            if active.saver is not None:
                await active.saver.settled(may_hold=active.stop is not Stop.SHUTDOWN)
        return self.ends.classify(active, graph, snapshot, failure)

    def _saver(self, active: ActiveRun) -> FencedSaver | None:
        claim = active.claim
        if is_temporary(claim):
            return None
        return FencedSaver(
            self.io.checkpoints,
            claim.lease,
            is_blank=claim.is_blank,
            awaits_commits=claim.kwargs["durability"] == "sync",
            may_hold=not (active.protocol or SHOWING & set(claim.kwargs["stream_mode"])),
            before_writes=active.events_kept,
            serde=self.serde,
        )

    async def _stream(
        self, active: ActiveRun, graph: Pregel[Any, Any, Any, Any], events: RunEvents
    ) -> BaseException | None:
        """Stream the graph to its end; what it raised, if it did."""
        claim = active.claim
        encoder = Encoder(
            claim.kwargs["stream_mode"], events.emit, has_checkpoints=not is_temporary(claim)
        )
        is_new = is_native(claim)
        stream = native_parts(graph, claim) if is_new else parts_of(graph, claim, encoder)
        try:
            async with contextlib.aclosing(stream) as parts:
                async for namespace, mode, data in parts:
                    if not (is_new and mode == "messages"):
                        encoder.part(namespace, mode, data)
                    if events.is_full:
                        await events.flushed()
                    if active.protocol is not None:
                        active.protocol.part(namespace, mode, data)
                        if active.protocol.events.is_full:
                            await active.protocol.events.flushed()
        except (asyncio.CancelledError, GraphStuck):
            if active.stop is None:
                raise
            task = asyncio.current_task()
            while task is not None and task.uncancel():
                pass
        except (DatabaseUnavailable, LeaseLost):
            raise
        except Exception as error:  # noqa: BLE001 (the border to users' graphs)
            return error
        return None

    async def _read_state(
        self, claim: Claim, graph: Pregel[Any, Any, Any, Any]
    ) -> StateSnapshot | None:
        # Without the metadata: langgraph would merge them, and reading asks for none of them.
        configurable = {
            key: value
            for key, value in (claim.kwargs["config"].get("configurable") or {}).items()
            if key not in {"checkpoint_id", "checkpoint_ns", "checkpoint_map"}
        }
        return await graph.aget_state({"configurable": configurable})
