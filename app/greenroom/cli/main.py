"""The `greenroom` command: finds the subcommand, turns a ConfigError into one line."""

import sys
from importlib import import_module

import click

from greenroom import __version__
from greenroom.errors import ConfigError

COMMANDS = ("dev", "web", "worker", "migrate", "webhooks", "graphs")


class LazyGroup(click.Group):
    """Imports a subcommand when it is asked for: `greenroom --version` must not load SQLAlchemy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"greenroom.cli.{cmd_name}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Run LangGraph agents on your own machines."""


def main() -> None:
    """Entry point. Exits with 1 where the configuration cannot be used."""
    try:
        cli(prog_name="greenroom")
    except ConfigError as error:
        click.echo(f"greenroom: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
