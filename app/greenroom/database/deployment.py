"""Which deployment a database belongs to: one id, made with the first migration."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import ProgrammingError

from greenroom.database.engine import Database
from greenroom.database.tables import deployment
from greenroom.errors import ConfigError


def find_deployment(database: Database) -> UUID:
    """Read the deployment's id.

    Raises:
        ConfigError: the database has not been migrated.
    """
    try:
        with database.statement() as connection:
            found: UUID = connection.execute(select(deployment.c.deployment_id)).scalar_one()
    except ProgrammingError as error:
        raise ConfigError(
            "the database has no tables of ours: run `greenroom migrate` first"
        ) from error
    return found
