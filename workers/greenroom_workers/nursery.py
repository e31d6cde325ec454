"""One parent for the graphs process and the worker of `greenroom dev`: both are forked from it.

What the two need of langgraph is imported once, here, and its memory shared: a start takes half the
time, and the second process costs what it adds. The user's code is imported in the children alone,
so that a reload begins with a clean slate. Without reloads it forks them and ends.
"""

import gc
import os
import signal
import sys
from types import FrameType

from greenroom.cli import graphs
from greenroom.cli.environment import GRAPHS, HOLD, RELOAD, WORKER, own_environment
from greenroom.cli.processes import fork
from greenroom.cli.supervisor import Command, Supervisor
from greenroom.cli.worker import KILL_MARGIN_SECONDS
from greenroom.collector import give_back
from greenroom.config import load_config
from greenroom.errors import ConfigError
from greenroom.graphs import host as _shared  # noqa: F401 (what the graphs process will need)
from greenroom.logs import configure_logs
from greenroom_workers import process

CHILDREN = (
    # It keeps nothing, and user code may block its ears: see cli.web.
    (GRAPHS, graphs.serve, signal.SIGKILL),
    (WORKER, process.main, signal.SIGTERM),
)


def main() -> None:
    """Keep both running until SIGTERM; RELOAD starts them anew."""
    try:
        config = load_config()
    except ConfigError as error:
        sys.stderr.write(f"greenroom: {error}\n")
        sys.exit(os.EX_CONFIG)
    configure_logs(config.log_level, as_json=config.log_json)
    environment = own_environment()
    commands = [
        Command(name, (), environment, death_signal, call=call)
        for name, call, death_signal in CHILDREN
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
    """Fork both once, for whoever supervises them from then on (greenroom.cli.adoption)."""
    share_memory()
    environment = own_environment()
    for name, call, death_signal in CHILDREN:
        child = fork(
            call, name, death_signal=death_signal, environment=environment, heir_pid=heir_pid
        )
        os.write(told_fd, f"{name} {child.pid}\n".encode())


def share_memory() -> None:
    """Make ready to be copied: a collection would touch, and so copy, every page that is shared."""
    gc.collect()
    gc.freeze()
    give_back()


if __name__ == "__main__":
    main()
