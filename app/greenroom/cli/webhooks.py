"""`greenroom webhooks`: what became of the deliveries of the last days."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from greenroom.cli.environment import config_option
from greenroom.cli.services import check_postgres
from greenroom.config import load_config
from greenroom.database.deployment import find_deployment
from greenroom.database.engine import Database
from greenroom.webhooks import service

TITLES = ("CREATED", "STATUS", "ATTEMPTS", "HTTP", "NEXT ATTEMPT", "RUN", "URL", "ERROR")


@click.command("webhooks")
@config_option
@click.option("--failed", is_flag=True, help="Only those that were given up.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
def command(config_file: Path | None, failed: bool, limit: int) -> None:  # noqa: FBT001 (an option)
    """List webhook deliveries, newest first."""
    config = load_config(config_file)
    check_postgres(config.database_uri)
    database = Database(config, pool_size=1, application_name="greenroom webhooks")
    find_deployment(database)
    deliveries = service.list_newest(database, only_failed=failed, limit=limit)
    database.close()
    for line in table([TITLES, *(row_of(delivery) for delivery in deliveries)]):
        click.echo(line)


def row_of(delivery: dict[str, Any]) -> tuple[str, ...]:
    """One line's cells; a dash is nothing."""
    cells = (
        f"{delivery['created_at']:%Y-%m-%d %H:%M:%S}",
        delivery["status"],
        delivery["attempts"],
        delivery["last_status"],
        f"{moment:%H:%M:%S}" if (moment := delivery["next_attempt_at"]) else None,
        delivery["run_id"],
        delivery["url"],
        delivery["last_error"],
    )
    return tuple("-" if cell is None else str(cell) for cell in cells)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines whose columns are as wide as their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
