"""`greenroom web`: gunicorn, and beside it the graphs process."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from greenroom.cli.environment import (
    GUNICORN_GRACE_SECONDS,
    PYTHON,
    child_environment,
    config_option,
    take_arguments,
)
from greenroom.cli.ready import check_port, check_services_apart
from greenroom.cli.supervisor import Command, Supervisor
from greenroom.config import load_config
from greenroom.logs import configure_logs

WEB = "web"
GUNICORN = (
    "gunicorn",
    "-c",
    "python:greenroom.cli.gunicorn_settings",
    "greenroom.application:create_app()",
)
KILL_AFTER_SECONDS = GUNICORN_GRACE_SECONDS + 5
SOCKET_PATH_BYTES = 100
"""The kernel's limit is 107."""


@click.command("web")
@config_option
def command(config_file: Path | None) -> None:
    """Serve the HTTP API."""
    config = load_config(config_file)
    configure_logs(config.log_level, as_json=config.log_json)
    check_services_apart(config)
    check_port(config.host, config.port)
    with graphs_socket(config.graphs_socket) as path:
        environment = child_environment(config_file, GREENROOM_GRAPHS_SOCKET=path)
        commands = [graphs_command(environment), gunicorn_command(environment)]
        code = Supervisor(commands, KILL_AFTER_SECONDS).run()
    sys.exit(code)


@contextmanager
def graphs_socket(configured: str = "") -> Iterator[str]:
    """Choose the graphs process's socket: the configured one, or in a private directory."""
    if configured:
        yield os.path.abspath(configured)  # noqa: PTH100  pathlib's version follows symlinks
        return
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > SOCKET_PATH_BYTES // 2:
        base = "/tmp"  # noqa: S108  mkdtemp makes it private
    with tempfile.TemporaryDirectory(prefix="greenroom-", dir=base) as directory:
        yield f"{directory}/graphs.sock"


def graphs_command(environment: Mapping[str, str]) -> Command:
    """Describe the graphs process. It keeps nothing, and user code may block its ears: SIGKILL."""
    argv = [*PYTHON, "greenroom.cli.main", "graphs"]
    return Command("graphs", argv, environment, signal.SIGKILL, stops_after=("web",))


def gunicorn_command(environment: Mapping[str, str], *, may_fork: bool = False) -> Command:
    """Describe gunicorn, which ends its workers GUNICORN_GRACE_SECONDS after SIGTERM.

    Args:
        may_fork: begin with what we have imported, where that is possible.
    """
    call = run_gunicorn if may_fork else None
    return Command(WEB, [*PYTHON, *GUNICORN], environment, call=call)


def run_gunicorn() -> None:
    """Be gunicorn, in a process that was forked."""
    from gunicorn.app import wsgiapp  # noqa: PLC0415 (only in the child)

    take_arguments(GUNICORN)
    wsgiapp.run()
