"""Snapshot: a resting thread's state, ready to be shown."""

from alembic import op

revision = "20261121_snapshot"
down_revision = "20261121_isolation"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'; ALTER TABLE thread_state ADD COLUMN snapshot bytea")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'; ALTER TABLE thread_state DROP COLUMN snapshot")
