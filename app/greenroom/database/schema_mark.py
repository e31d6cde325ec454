"""A mark on the schema of who brought it up to date, so that a start need not look at all of it.

Looking takes half a second: alembic, langgraph and every migration are imported for it.
"""

from contextlib import closing
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psycopg2
from psycopg2 import sql

import greenroom

OTHERS: Final = ("langgraph-checkpoint-postgres",)
"""Whose tables lie beside ours."""


def migrations_folder() -> Path:
    """The folder of env.py: inside an installed package, or at the top of a checkout."""
    package = Path(greenroom.__file__).resolve().parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "alembic"


def is_marked(uri: str) -> bool:
    """Whether this very code has brought the schema up to date, and nobody has migrated since.

    Raises:
        psycopg2.Error: the database cannot be asked.
    """
    with closing(psycopg2.connect(uri)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('alembic_version')")
        if cursor.fetchone() == (None,):
            return False
        cursor.execute(
            "SELECT version_num, obj_description('alembic_version'::regclass, 'pg_class')"
            " FROM alembic_version"
        )
        row = cursor.fetchone()
        return row is not None and row[1] == _mark(row[0])


def mark(uri: str) -> None:
    """Write down that this code has just brought the schema up to date.

    Raises:
        psycopg2.Error: the database cannot be asked, or the table is not ours.
    """
    with closing(psycopg2.connect(uri)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT version_num FROM alembic_version")
        row = cursor.fetchone()
        if row is None:
            return
        text = sql.Literal(_mark(row[0]))
        cursor.execute(sql.SQL("COMMENT ON TABLE alembic_version IS {}").format(text))
        connection.commit()


def _mark(version_num: str) -> str:
    """Of a revision of the database and all that has a say in what is in it."""
    digest = sha256()
    for name in OTHERS:
        digest.update(f"{name} {version(name)}\n".encode())
    for path in sorted((migrations_folder() / "versions").glob("*.py")):
        digest.update(path.name.encode() + b"\n" + path.read_bytes())
    return f"greenroom {greenroom.__version__} {version_num} {digest.hexdigest()}"
