"""Whether anybody reads a run's events from its first one on."""

from alembic import op

revision = "20261122_heard"
down_revision = "20261121_data_key"

STATEMENTS = """
SET LOCAL lock_timeout = '5s';

ALTER TABLE run ADD COLUMN is_heard boolean NOT NULL DEFAULT true;
"""


def upgrade() -> None:
    op.execute(STATEMENTS)


def downgrade() -> None:
    op.execute("ALTER TABLE run DROP COLUMN is_heard")
