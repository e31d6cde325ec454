"""The worker process: opens everything, works until it is told to stop, hands back what is left."""

import contextlib
import dataclasses
import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from uuid import UUID

import dramatiq
from dramatiq.errors import DramatiqError

from greenroom import wire
from greenroom.collector import calm_collector
from greenroom.config import Config, export_project_environment, load_config
from greenroom.database.deployment import find_deployment
from greenroom.database.engine import Database
from greenroom.errors import AppError, ConfigError, DatabaseUnavailable
from greenroom.graphs.encryption_handlers import load_ask
from greenroom.graphs.registry import load_registry
from greenroom.keyring import install_keys
from greenroom.logs import configure_logs, get_logger
from greenroom.queue import life
from greenroom.signals.connection import connect
from greenroom.signals.keys import Keys
from greenroom.signals.sender import Signals
from greenroom.webhooks.settings import read_settings
from greenroom_workers.active_run import Stop
from greenroom_workers.actors import declare_actors
from greenroom_workers.broker import LOOK_SECONDS, WorkQueue, make_broker
from greenroom_workers.claims import Claims
from greenroom_workers.deliveries import Deliveries
from greenroom_workers.execution import Executor
from greenroom_workers.heartbeat import Heartbeat
from greenroom_workers.identity import make_worker_id
from greenroom_workers.io_thread import IoThread
from greenroom_workers.isolation import Isolation
from greenroom_workers.priorities import make_cron_priorities
from greenroom_workers.reserve import Reserve, await_call
from greenroom_workers.stuck import StuckRuns
from greenroom_workers.upkeep import Upkeep

log = get_logger(__name__)

APART = "--apart"
"""The argument that makes a process for suspects (isolation.py)."""
POLL_SECONDS = 0.05
PULSE_SECONDS = 5.0
BUSY_PULSE_SECONDS = 1.0
"""The same while there are processes for suspects."""
FROZEN_SECONDS = 30.0
"""A process whose main thread did not get to run for so long is held by C code of a node: nothing
inside can help it. It ends with a traceback of every thread, and its leases return its runs."""
SWITCH_SECONDS = 0.002
"""How long a busy graph may keep the interpreter from threads that send events and renew leases.

With Python's own 5 ms a run beside three busy ones had its first event after 88 ms instead of 34;
with less, short runs take more CPU.
"""
AUTOGROUP = Path("/proc/self/autogroup")
WORKER_TIMEOUT_MS = 600_000
"""Until an idle thread of Dramatiq's looks around: it is woken for whatever there is."""
HAND_BACK_SECONDS = 5.0
"""How long runs get to end once they are asked to."""


def main(reserve: Reserve | None = None) -> None:
    """Run a worker until SIGTERM or SIGINT; a second SIGINT ends it at once.

    With `--apart`: execute the suspects that wait, then end.

    Args:
        reserve: who may take over a part of the slots; None: nobody waits for it.

    Exits with EX_CONFIG when the settings are wrong: no restart can mend those.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    stopping, nudge = threading.Event(), threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        # A platform may send SIGTERM to every process, and our supervisor pass it on once more.
        if stopping.is_set() and number == signal.SIGINT:
            os._exit(1)
        stopping.set()
        nudge.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        config = load_config()
        configure_logs(config.log_level, as_json=config.log_json)
        give_way(config.worker_niceness)
        export_project_environment(config.project)
        install_keys(config, load_ask)
        is_apart = APART in sys.argv[1:]
        worker = ApartProcess(config, nudge) if is_apart else WorkerProcess(config, nudge, reserve)
    except ConfigError as error:
        sys.stderr.write(f"greenroom: {error}\n")
        sys.exit(os.EX_CONFIG)
    worker.start()
    calm_collector()
    while not (stopping.is_set() or worker.is_done):
        nudge.clear()
        worker.look_after()
        # Its thread is the C library's own: it works while nobody can have the interpreter.
        faulthandler.dump_traceback_later(FROZEN_SECONDS + worker.pulse_seconds, exit=True)
        if not stopping.is_set():
            nudge.wait(worker.pulse_seconds)
    faulthandler.cancel_dump_traceback_later()
    worker.stop()


def main_of_reserve(fd: int) -> None:
    """Be a worker as soon as the first one calls, or is gone; see greenroom_workers.reserve."""
    await_call(fd)
    main()


def give_way(niceness: int) -> None:
    """Leave the cores to others while there are too few: requests are answered before runs go on.

    We take no core from who has it when we wake up (SCHED_BATCH), and get a tenth of its time if
    both want it; alone we get it all (sched(7)). Threads and what user code starts inherit it. The
    share is that of our session where the kernel groups processes so (its autogroup feature).

    Args:
        niceness: of nice(2); 10 is the tenth. 0 leaves everything as it is.
    """
    if sys.platform != "linux" or not niceness:
        return
    # A sandbox may forbid it, and nothing depends on it.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
        if os.getsid(0) == os.getpid():
            AUTOGROUP.write_text(str(niceness), encoding="ascii")


class WorkerProcess:
    """Everything that one worker process is made of.

    Args:
        nudge: set it to have the main thread look after everything now.
        reserve: whose slots are ours until it is called.
    """

    def __init__(
        self, config: Config, nudge: threading.Event, reserve: Reserve | None = None
    ) -> None:
        self.config = config
        slots = config.slots + (reserve.slots if reserve else 0)
        self.worker_id = make_worker_id()
        self.database = Database(
            config,
            pool_size=min(slots, config.database_pool_size) + 1,
            application_name="greenroom worker",
        )
        self.heartbeat_database = Database(
            config,
            pool_size=1,
            application_name="greenroom heartbeat",
            # A beat that hangs must leave time for another within the lease.
            statement_seconds=max(1.0, config.renew_seconds),
        )
        # One connection for each of its rounds.
        self.upkeep_database = Database(config, pool_size=2, application_name="greenroom upkeep")
        keys = Keys(config.redis_key_prefix, find_deployment(self.database))
        client = connect(config.redis_uri)
        self.signals = Signals(client, keys)
        self.io = IoThread(config)
        self.delivery_database = Database(
            config, pool_size=1, application_name="greenroom deliveries"
        )
        self.deliveries = Deliveries(config, self.delivery_database, read_settings(config))
        self.executor = Executor(
            config,
            self.database,
            load_registry(config.project),
            self.io,
            self.signals,
            self.deliveries.wake,
        )
        self.claims = Claims(config, self.database, self.executor, self.worker_id, reserve)
        self.heartbeat = Heartbeat(config, self.heartbeat_database, self.claims)
        self.claims.is_cut_off = self.heartbeat.is_cut_off
        self.isolation = Isolation(nudge)
        self.upkeep = Upkeep(
            config,
            self.upkeep_database,
            self.claims,
            self.signals,
            self.isolation.want,
            make_cron_priorities(config, self.upkeep_database),
        )
        self.stuck = StuckRuns(self.executor, self._replace_slot)
        self.claims.retire_thread = self._retire_slot
        # A wait for the bell must end before its socket gives up.
        waiting = connect(config.redis_uri, socket_timeout=LOOK_SECONDS + 2)
        self.broker = make_broker(waiting, keys.bell, config.max_attempts)
        self.broker.find_slots = lambda: self.claims.slots
        self.broker.is_work_due = self.claims.is_work_due
        declare_actors(self.broker, self.claims)
        self.worker = dramatiq.Worker(
            self.broker, worker_threads=self.claims.slots, worker_timeout=WORKER_TIMEOUT_MS
        )
        self.worker.work_queue = self.work_queue = WorkQueue()
        self.claims.has_bell = lambda: not self.work_queue.empty()

    def start(self) -> None:
        """Begin to work."""
        self.io.start()
        self.io.listen(self.executor.keys.control, self._hear)
        self._start_claiming()
        self.heartbeat.start()
        self.stuck.start()
        self.deliveries.start()
        log.info(
            "worker ready",
            worker_id=self.worker_id,
            slots=self.claims.slots,
            graphs=len(self.config.project.graphs),
        )

    @property
    def is_done(self) -> bool:
        """Nothing is left to do, and nothing ever will be."""
        return False

    @property
    def pulse_seconds(self) -> float:
        """Until `look_after` is called again, at the latest."""
        return BUSY_PULSE_SECONDS if self.isolation.is_busy else PULSE_SECONDS

    def look_after(self) -> None:
        """Called from the main thread again and again."""
        if self.isolation.look_after():
            self.upkeep.hurry()

    def _start_claiming(self) -> None:
        self.worker.start()
        self.upkeep.start()

    def _replace_slot(self) -> None:
        """One of the threads is lost to a node that never returns."""
        self.worker._add_worker()  # noqa: SLF001 (setup.cfg pins Dramatiq)

    def _retire_slot(self) -> None:
        """End the thread that asks: it has been replaced, here or by the second process."""
        current = threading.current_thread()
        for thread in list(self.worker.workers):
            if thread is current:
                thread.running = False
                self.worker.workers.remove(thread)

    def stop(self) -> None:
        """Claim no more, let runs finish for a while, hand the rest back (nobody is charged)."""
        log.info("worker stopping", active=len(self.executor.active))
        self.executor.is_stopping = self.broker.is_resting = True
        deadline = time.monotonic() + self.config.shutdown_grace_seconds
        self._wait_until_idle(deadline)
        for run in list(self.executor.active.values()):
            run.request_stop(Stop.SHUTDOWN)
        self._wait_until_idle(time.monotonic() + HAND_BACK_SECONDS)
        self._hand_back_stuck()
        self.isolation.stop(HAND_BACK_SECONDS)
        self.stuck.stop()
        self._stop_upkeep()
        self.deliveries.stop()
        self.heartbeat.stop()
        self._sign_off()
        self._stop_claiming()
        self.database.close()
        self.upkeep_database.close()
        self.delivery_database.close()
        self.heartbeat_database.close()
        log.info("worker stopped")
        # Threads of user code that never end must not keep the process.
        os._exit(0)

    def _stop_upkeep(self) -> None:
        self.upkeep.stop()

    def _stop_claiming(self) -> None:
        self.work_queue.close()
        try:
            self.worker.stop(timeout=2000)
        except (DramatiqError, OSError) as error:
            log.warning("bell not closed", error=repr(error))

    def _sign_off(self) -> None:
        try:
            with self.upkeep_database.statement() as connection:
                life.sign_off(connection, self.worker_id)
        except AppError as error:
            log.warning("worker not signed off", error=repr(error))

    def _wait_until_idle(self, deadline: float) -> None:
        while not self.executor.is_idle and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _hand_back_stuck(self) -> None:
        """Runs whose code does not even let itself be cancelled: their rows are free at once."""
        for run in list(self.executor.active.values()):
            try:
                with self.upkeep_database.statement() as connection:
                    life.release_run(connection, run.claim.lease, is_charged=False)
                self.signals.ring()
            except AppError as error:
                log.warning(
                    "run left to its lease",
                    run_id=str(run.claim.lease.run_id),
                    error=repr(error),
                )

    def _hear(self, message: bytes) -> None:
        """A message of the control channel: run ids and what shall become of them."""
        for run_id, wish in wire.loads(message).items():
            self.executor.stop_run(UUID(run_id), wish)


class ApartProcess(WorkerProcess):
    """Executes suspects, one at a time, until none waits. Hears no bell and sweeps nothing."""

    def __init__(self, config: Config, nudge: threading.Event) -> None:
        super().__init__(dataclasses.replace(config, slots=1), nudge)
        self._thread = threading.Thread(target=self._execute, name="suspects", daemon=True)

    @property
    def is_done(self) -> bool:
        """No suspect waits any more, or the one at hand will never end."""
        return not self._thread.is_alive() or not self._is_needed

    @property
    def pulse_seconds(self) -> float:
        """Soon: whoever started us waits for the end."""
        return BUSY_PULSE_SECONDS

    def look_after(self) -> None:
        """Nobody else is started from here."""

    def _start_claiming(self) -> None:
        self._is_needed = True
        self._thread.start()

    def _stop_claiming(self) -> None:
        pass

    def _stop_upkeep(self) -> None:
        pass

    def _replace_slot(self) -> None:
        self._is_needed = False

    def _execute(self) -> None:
        try:
            self.claims.drain(is_suspect=True)
        except DatabaseUnavailable as error:
            log.warning("suspects left to others", error=repr(error))


if __name__ == "__main__":
    main()
