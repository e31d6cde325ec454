"""What the commands share: the -c option, and the environment that children inherit."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from greenroom.config import DEFAULT_CONFIG_FILE

# -P: the working directory is the user's; a redis.py in it must not hide the library.
PYTHON = (sys.executable, "-P", "-m")

GRAPHS = "graphs"
WORKER = "worker"
SECOND_WORKER = "worker-2"
"""Asleep until the first one's interpreter is what runs wait for."""
SLOTS = "N_JOBS_PER_WORKER"
HOLD = "--hold"
"""To the nursery: a child that cannot be configured waits for a reload and ends nobody else."""
RELOAD = signal.SIGURG
"""To the nursery, which ignores it while it cannot heed it yet: no other signal would do so."""

GUNICORN_GRACE_SECONDS = 10
"""For open requests at a stop; streams end themselves before."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

config_option: Decorator = click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The langgraph.json to use. Default: $GREENROOM_CONFIG, or ./langgraph.json.",
)


def share_slots(slots: int) -> tuple[int, int]:
    """What each of two worker processes gets of so many slots; 0 where a second is no use."""
    second = slots // 2 if (os.cpu_count() or 1) > 1 else 0
    return slots - second, second


def share_metrics(directory: str) -> None:
    """Tell prometheus_client, in this process and its children, where counters are shared."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory


def own_environment() -> dict[str, str]:
    """A copy of ours, for a child that shall have the same."""
    return dict(os.environ)


def take_environment(environment: Mapping[str, str]) -> None:
    """Have this environment and no other: what `exec` does for a child that is not forked."""
    os.environ.clear()
    os.environ.update(environment)


def take_arguments(argv: Sequence[str]) -> None:
    """Have these arguments, and the search path of PYTHON: `exec` again."""
    sys.argv[:] = argv
    if not sys.flags.safe_path:
        del sys.path[:1]


def child_environment(config_file: Path | None, **settings: str) -> dict[str, str]:
    """Copy our environment for a child; langgraph.json's path becomes absolute in it."""
    path = Path(config_file or os.environ.get("GREENROOM_CONFIG", DEFAULT_CONFIG_FILE))
    return {**os.environ, "GREENROOM_CONFIG": str(path.absolute()), **settings}
