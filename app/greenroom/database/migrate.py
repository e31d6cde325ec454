"""Bring a database to the current schema: ours by alembic, langgraph's by its own set-up."""

import time
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config as AlembicConfig
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.store.postgres import PostgresStore
from langgraph.store.postgres.base import ANNIndexConfig, PostgresIndexConfig
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy import Connection, create_engine, pool, text

from greenroom.config import Config
from greenroom.database.schema_mark import migrations_folder
from greenroom.errors import ConfigError
from greenroom.logs import get_logger
from greenroom.store.settings import Index, read_settings

log = get_logger(__name__)

# Any number will do, as long as every release of ours takes the same one.
LOCK = 7_203_170_905
LOCK_TIMEOUT_SECONDS = 300
SPARE_INDEXES = tuple(
    sql.Identifier(f"{table}_thread_id_idx")
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
)
"""Of langgraph's set-up: each table's primary key begins with the same column."""
# Not there (Postgres 14 says it another way), or there and not allowed to us.
NO_EXTENSION = (
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.UndefinedFile,
    psycopg.errors.InsufficientPrivilege,
)


def migrate(config: Config) -> None:
    """Create or upgrade every table. Safe to run from several processes at once, and again.

    Raises:
        ConfigError: another migration has held the lock for five minutes, or `store.index` wants
            what this Postgres has not.
    """
    url = config.database_uri.replace("postgresql://", "postgresql+psycopg2://", 1)
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as lock:
        _lock(lock)
        try:
            with engine.begin() as connection:
                command.upgrade(alembic_config(connection), "head")
            _set_up_langgraph(config)
        finally:
            lock.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
    log.info("database is up to date")


def alembic_config(connection: Connection) -> AlembicConfig:
    """Alembic's settings without an ini file, bound to one connection."""
    alembic = AlembicConfig()
    alembic.set_main_option("script_location", str(migrations_folder()))
    alembic.attributes["connection"] = connection
    return alembic


def _lock(connection: Connection) -> None:
    """Wait for our turn.

    By polling: a session that waits inside pg_advisory_lock holds a snapshot, on which langgraph's
    CREATE INDEX CONCURRENTLY in the session that has the lock would wait for ever.
    """
    give_up_at = time.monotonic() + LOCK_TIMEOUT_SECONDS
    query = text("SELECT pg_try_advisory_lock(:lock)")
    while not connection.execute(query, {"lock": LOCK}).scalar():
        if time.monotonic() > give_up_at:
            raise ConfigError(
                f"another migration has held its lock for {LOCK_TIMEOUT_SECONDS} s: see "
                "pg_stat_activity for the session, end it, then run `greenroom migrate` again"
            )
        time.sleep(0.1)


def _set_up_langgraph(config: Config) -> None:
    with psycopg.connect(
        config.database_uri, autocommit=True, prepare_threshold=0, row_factory=dict_row
    ) as connection:
        PostgresSaver(connection).setup()
        PostgresStore(connection).setup()
        for name in SPARE_INDEXES:
            connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(name))
        if (index := read_settings(config.project).index) is not None:
            _set_up_vectors(connection, index)


def _set_up_vectors(connection: psycopg.Connection[Any], index: Index) -> None:
    """Make the table of vectors, and see that it fits the configuration.

    Without an approximate index: it finds the nearest of all items first and filters by namespace
    afterwards, which may leave none; exact search among a namespace's own items is quick.
    """
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except NO_EXTENSION as error:
        raise ConfigError(
            'langgraph.json has "store.index", which needs pgvector in Postgres: install it on the '
            "server and run CREATE EXTENSION vector there as a superuser, or take the key out"
        ) from error
    settings = PostgresIndexConfig(
        dims=index.dims,
        # Only texts would need it, and there are none here.
        embed=lambda _texts: [],
        fields=list(index.fields),
        ann_index_config=ANNIndexConfig(kind="flat"),
    )
    PostgresStore(connection, index=settings).setup()
    found = connection.execute(
        "SELECT atttypmod AS dims FROM pg_attribute "
        "WHERE attrelid = 'store_vectors'::regclass AND attname = 'embedding'"
    ).fetchone()
    if found is not None and found["dims"] not in {index.dims, -1}:
        raise ConfigError(
            f'langgraph.json: "store.index.dims" is {index.dims}, but the vectors in the database '
            f"have {found['dims']}: put that back, or drop the tables store_vectors and "
            "vector_migrations, migrate, and put the items again"
        )
