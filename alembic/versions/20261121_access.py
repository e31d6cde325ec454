"""Access: whose a stateless run's leavings are, and who made a cron."""

from alembic import op

revision = "20261121_access"
down_revision = "20261121_protocol"


def upgrade() -> None:
    op.execute(
        """
        SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '60s';
        ALTER TABLE run_result ADD COLUMN metadata jsonb;
        ALTER TABLE webhook_delivery ADD COLUMN metadata jsonb;
        ALTER TABLE cron ADD COLUMN creator bytea;
        """
    )


def downgrade() -> None:
    op.execute(
        """
        SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '60s';
        ALTER TABLE cron DROP COLUMN creator;
        ALTER TABLE webhook_delivery DROP COLUMN metadata;
        ALTER TABLE run_result DROP COLUMN metadata;
        """
    )
