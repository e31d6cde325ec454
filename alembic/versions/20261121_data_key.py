"""Data keys: what encrypts payloads where handlers of the owner's guard it."""

from alembic import op

revision = "20261121_data_key"
down_revision = "20261121_priority"

STATEMENTS = """
SET LOCAL lock_timeout = '5s';

CREATE TABLE data_key (
    key_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- As encryption.path has encrypted it; of no use to whoever has the database alone.
    wrapped bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
"""


def upgrade() -> None:
    op.execute(STATEMENTS)


def downgrade() -> None:
    op.execute("DROP TABLE data_key")
