"""The worker process: opens everything, works until it is told to stop, hands back what is left."""

import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from uuid import UUID, uuid4

import dramatiq
from dramatiq.errors import DramatiqError

from greenroom import wire
from greenroom.config import Config, export_project_environment, load_config
from greenroom.database.deployment import find_deployment
from greenroom.database.engine import Database
from greenroom.errors import AppError, ConfigError
from greenroom.graphs.registry import load_registry
from greenroom.logs import configure_logs, get_logger
from greenroom.queue import life
from greenroom.signals.connection import connect
from greenroom.signals.keys import Keys
from greenroom.signals.sender import Signals
from greenroom.webhooks.settings import read_settings
from greenroom_workers.actors import declare_actors
from greenroom_workers.broker import LOOK_SECONDS, make_broker
from greenroom_workers.deliveries import Deliveries
from greenroom_workers.execution import Executor, Stop
from greenroom_workers.heartbeat import Heartbeat
from greenroom_workers.io_thread import IoThread
from greenroom_workers.upkeep import Upkeep

log = get_logger(__name__)

POLL_SECONDS = 0.05
SWITCH_SECONDS = 0.0005
"""How long a busy graph may keep the interpreter from threads that send events and renew leases.

With Python's own 5 ms the first event of a run was that much later.
"""
HAND_BACK_SECONDS = 5.0
"""How long runs get to end once they are asked to."""


def main() -> None:
    """Run a worker until SIGTERM or SIGINT; a second SIGINT ends it at once.

    Exits with EX_CONFIG when the settings are wrong: no restart can mend those.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    stopping = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        # A platform may send SIGTERM to every process, and our supervisor pass it on once more.
        if stopping.is_set() and number == signal.SIGINT:
            os._exit(1)
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        config = load_config()
        configure_logs(config.log_level, as_json=config.log_json)
        export_project_environment(config.project)
        worker = WorkerProcess(config)
    except ConfigError as error:
        sys.stderr.write(f"greenroom: {error}\n")
        sys.exit(os.EX_CONFIG)
    worker.start()
    stopping.wait()
    worker.stop()


class WorkerProcess:
    """Everything that one worker process is made of."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.database = Database(
            config,
            pool_size=min(config.slots, config.database_pool_size) + 1,
            application_name="greenroom worker",
        )
        self.heartbeat_database = Database(
            config, pool_size=1, application_name="greenroom heartbeat"
        )
        self.upkeep_database = Database(config, pool_size=1, application_name="greenroom upkeep")
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
            self.worker_id,
            self.deliveries.wake,
        )
        self.heartbeat = Heartbeat(config, self.heartbeat_database, self.executor)
        self.upkeep = Upkeep(config, self.upkeep_database, self.executor, self.signals)
        # A blocking look must end before its socket gives up.
        waiting = connect(config.redis_uri, socket_timeout=LOOK_SECONDS + 5)
        self.broker = make_broker(waiting, keys.bell, config.max_attempts)
        declare_actors(self.broker, self.executor)
        self.worker = dramatiq.Worker(self.broker, worker_threads=config.slots, worker_timeout=1000)

    def start(self) -> None:
        """Begin to work."""
        self.io.start()
        self.io.listen(self.executor.keys.control, self._hear)
        self.worker.start()
        self.heartbeat.start()
        self.upkeep.start()
        self.deliveries.start()
        log.info(
            "worker ready",
            worker_id=self.worker_id,
            slots=self.config.slots,
            graphs=len(self.config.project.graphs),
        )

    def stop(self) -> None:
        """Claim no more, let runs finish for a while, hand the rest back (nobody is charged)."""
        log.info("worker stopping", active=len(self.executor.active))
        self.executor.is_stopping = True
        deadline = time.monotonic() + self.config.shutdown_grace_seconds
        self._wait_until_idle(deadline)
        for run in list(self.executor.active.values()):
            run.request_stop(Stop.SHUTDOWN)
        self._wait_until_idle(time.monotonic() + HAND_BACK_SECONDS)
        self._hand_back_stuck()
        self.upkeep.stop()
        self.deliveries.stop()
        self.heartbeat.stop()
        self._sign_off()
        try:
            self.worker.stop(timeout=2000)
        except (DramatiqError, OSError) as error:
            log.warning("bell not closed", error=repr(error))
        self.database.close()
        self.upkeep_database.close()
        self.delivery_database.close()
        self.heartbeat_database.close()
        log.info("worker stopped")
        # Threads of user code that never end must not keep the process.
        os._exit(0)

    def _sign_off(self) -> None:
        try:
            with self.upkeep_database.statement() as connection:
                life.sign_off(connection, self.worker_id)
        except AppError as error:
            log.warning("worker not signed off", error=repr(error))

    def _wait_until_idle(self, deadline: float) -> None:
        while self.executor.active and time.monotonic() < deadline:
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


if __name__ == "__main__":
    main()
