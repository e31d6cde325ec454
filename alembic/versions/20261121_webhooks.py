"""Webhooks: whom a run tells about its end, and what is owed to them."""

from alembic import op

revision = "20261121_webhooks"
down_revision = "20261121_crons"

STATEMENTS = """
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE run ADD COLUMN webhook text;

CREATE TABLE webhook_delivery (
    delivery_id uuid PRIMARY KEY,
    run_id uuid NOT NULL,
    thread_id uuid NOT NULL,
    kept_run_id uuid REFERENCES run ON DELETE CASCADE CHECK (kept_run_id = run_id),
    url text NOT NULL,
    host text NOT NULL,
    body bytea,
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at timestamptz DEFAULT now(),
    delivered_at timestamptz,
    last_status integer,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (next_attempt_at IS NULL OR (delivered_at IS NULL AND body IS NOT NULL))
);
-- webhooks.queries.claim_delivery and end_lost: as many rows as are owed.
CREATE INDEX webhook_delivery_due ON webhook_delivery (next_attempt_at)
 WHERE next_attempt_at IS NOT NULL;
-- webhooks.queries.list_for_run.
CREATE INDEX webhook_delivery_run ON webhook_delivery (run_id);
-- The cascade from a run.
CREATE INDEX webhook_delivery_kept ON webhook_delivery (kept_run_id) WHERE kept_run_id IS NOT NULL;
-- webhooks.queries.list_newest and sweep_ended.
CREATE INDEX webhook_delivery_created ON webhook_delivery (created_at);
"""


def upgrade() -> None:
    op.execute(STATEMENTS)


def downgrade() -> None:
    op.execute("DROP TABLE webhook_delivery; ALTER TABLE run DROP COLUMN webhook")
