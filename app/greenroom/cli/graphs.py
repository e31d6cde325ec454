"""`greenroom graphs`: the process that runs user code for the web; started by it, not by people."""

import os
import sys
from pathlib import Path

import click

from greenroom.cli.environment import config_option
from greenroom.config import load_config
from greenroom.errors import ConfigError
from greenroom.logs import configure_logs


@click.command("graphs", hidden=True)
@config_option
def command(config_file: Path | None) -> None:
    """Serve the user's graphs to the web process (internal)."""
    serve(config_file)


def serve(config_file: Path | None = None) -> None:
    """Be the graphs process. Exits with EX_CONFIG where the configuration cannot be used."""
    try:
        config = load_config(config_file)
        configure_logs(config.log_level, as_json=config.log_json)
        # Below the check: langgraph takes a second to import.
        from greenroom.graphs import host  # noqa: PLC0415

        host.main(config)
    except ConfigError as error:
        click.echo(f"greenroom: {error}", err=True)
        # Tells the supervisor that another start would fail alike.
        sys.exit(os.EX_CONFIG)
