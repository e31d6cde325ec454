"""One parent for the graphs process and the workers of `greenroom dev`: they are forked from it.

What they need of langgraph is imported once, here, and its memory shared: a start takes half the
time, and each process costs what it adds. The user's code is imported in the children alone,
so that a reload begins with a clean slate. Without reloads it forks them and ends.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import NamedTuple

import psycopg2.extras as _driver  # noqa: F401 (loaded by the first connection)
from langchain_core.language_models import chat_models as _models  # noqa: F401 (nearly all graphs)

from greenroom.cli import graphs
from greenroom.cli.environment import (
    GRAPHS,
    HOLD,
    RELOAD,
    SECOND_WORKER,
    SLOTS,
    WORKER,
    own_environment,
    share_slots,
)
from greenroom.cli.processes import fork
from greenroom.cli.supervisor import Command, Supervisor
from greenroom.cli.worker import KILL_MARGIN_SECONDS
from greenroom.collector import give_back
from greenroom.config import Config, load_config
from greenroom.errors import ConfigError
from greenroom.graphs import host as _shared  # noqa: F401 (what the graphs process will need)
from greenroom.logs import configure_logs
from greenroom_workers import process
from greenroom_workers.reserve import Reserve


class Child(NamedTuple):
    """What is forked, as `greenroom.cli.processes.fork` takes it."""

    name: str
    call: Callable[[], None]
    death_signal: signal.Signals
    environment: Mapping[str, str]
    kept_fd: int | None = None


def main() -> None:
    """Keep them running until SIGTERM; RELOAD starts them anew."""
    config = read_config()
    commands = [
        Command(
            child.name, (), child.environment, child.death_signal, (), child.call, child.kept_fd
        )
        for child in describe_children(config)
    ]
    supervisor = Supervisor(commands, config.shutdown_grace_seconds + KILL_MARGIN_SECONDS)
    supervisor.holds_misconfigured = HOLD in sys.argv[1:]

    def reload(_number: int, _frame: FrameType | None) -> None:
        for command in commands:
            supervisor.restart(command.name)

    signal.signal(RELOAD, reload)
    share_memory()
    sys.exit(os.EX_CONFIG if supervisor.run() else 0)


def bear(heir_pid: int, told_fd: int) -> None:
    """Fork them once, for whoever supervises them from then on (greenroom.cli.adoption)."""
    children = describe_children(read_config())
    share_memory()
    for child in children:
        pid = fork(
            child.call,
            child.name,
            death_signal=child.death_signal,
            environment=child.environment,
            heir_pid=heir_pid,
            kept_fd=child.kept_fd,
        ).pid
        os.write(told_fd, f"{child.name} {pid}\n".encode())


def read_config() -> Config:
    """Read the settings; ends the process where they are wrong."""
    try:
        config = load_config()
    except ConfigError as error:
        sys.stderr.write(f"greenroom: {error}\n")
        sys.exit(os.EX_CONFIG)
    configure_logs(config.log_level, as_json=config.log_json)
    return config


def describe_children(config: Config) -> list[Child]:
    """The graphs process, the worker, and asleep at a pipe the second worker."""
    environment = own_environment()
    first, second = share_slots(config.slots)
    # The graphs process keeps nothing, and user code may block its ears: see cli.web.
    graphs_child = Child(GRAPHS, graphs.serve, signal.SIGKILL, environment)
    ours = {**environment, SLOTS: str(first)}
    if not second:
        return [graphs_child, Child(WORKER, process.main, signal.SIGTERM, ours)]
    waiting, calling = os.pipe()
    work = partial(process.main, Reserve(second, calling))
    wait = partial(process.main_of_reserve, waiting)
    theirs = {**environment, SLOTS: str(second)}
    return [
        graphs_child,
        Child(WORKER, work, signal.SIGTERM, ours, calling),
        Child(SECOND_WORKER, wait, signal.SIGTERM, theirs, waiting),
    ]


def share_memory() -> None:
    """Make ready to be copied: a collection would touch, and so copy, every page that is shared."""
    gc.collect()
    gc.freeze()
    give_back()


if __name__ == "__main__":
    main()
