"""`greenroom migrate`: brings the database's schema up to date."""

from pathlib import Path

import click

from greenroom.cli.environment import config_option
from greenroom.cli.services import check_services
from greenroom.config import load_config
from greenroom.database import migrate
from greenroom.logs import configure_logs


@click.command("migrate")
@config_option
def command(config_file: Path | None) -> None:
    """Create or upgrade the tables, then exit."""
    config = load_config(config_file)
    configure_logs(config.log_level, as_json=config.log_json)
    check_services(config)
    migrate.migrate(config)
