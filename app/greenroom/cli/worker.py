"""`greenroom worker`: supervises one or more worker processes."""

import sys
from pathlib import Path

import click

from greenroom.cli.environment import PYTHON, child_environment, config_option
from greenroom.cli.ready import check_services_apart
from greenroom.cli.supervisor import Command, Supervisor
from greenroom.config import load_config
from greenroom.logs import configure_logs

# By name: nothing in greenroom imports the workers.
ARGV = (*PYTHON, "greenroom_workers.process")
KILL_MARGIN_SECONDS = 10
"""For handing back, after BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS, what could not be finished."""


@click.command("worker")
@config_option
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Worker processes; each executes N_JOBS_PER_WORKER runs at once.",
)
def command(config_file: Path | None, processes: int) -> None:
    """Execute runs.

    A worker that a graph takes down is started again; SIGTERM lets runs end, or hands them back.
    """
    config = load_config(config_file)
    configure_logs(config.log_level, as_json=config.log_json)
    check_services_apart(config)
    environment = child_environment(config_file)
    commands = [
        Command(f"worker-{number}", ARGV, environment) for number in range(1, processes + 1)
    ]
    sys.exit(Supervisor(commands, config.shutdown_grace_seconds + KILL_MARGIN_SECONDS).run())
