"""Crons, and the slots in which they have fired."""

from alembic import op

revision = "20261121_crons"
down_revision = "20261121_first_tables"

STATEMENTS = """
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE cron (
    cron_id uuid PRIMARY KEY,
    assistant_id uuid NOT NULL REFERENCES assistant ON DELETE CASCADE,
    thread_id uuid REFERENCES thread ON DELETE CASCADE,
    user_id text NOT NULL DEFAULT '',
    schedule text NOT NULL,
    timezone text,
    end_time timestamptz,
    payload bytea NOT NULL,
    metadata jsonb NOT NULL,
    on_run_completed text CHECK (on_run_completed IN ('delete', 'keep')),
    enabled boolean NOT NULL DEFAULT true,
    next_run_date timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((thread_id IS NULL) = (on_run_completed IS NOT NULL)),
    CHECK (next_run_date < end_time)
);
-- crons.queries.list_due and find_next_due: as many rows as are due.
CREATE INDEX cron_due ON cron (next_run_date) WHERE enabled;
-- crons.queries.search_crons: newest first, by metadata, by thread, by assistant; the last two also
-- for the cascades.
CREATE INDEX cron_created ON cron (created_at DESC, cron_id);
CREATE INDEX cron_metadata ON cron USING gin (metadata jsonb_path_ops);
CREATE INDEX cron_thread ON cron (thread_id) WHERE thread_id IS NOT NULL;
CREATE INDEX cron_assistant ON cron (assistant_id);

CREATE TABLE cron_firing (
    cron_id uuid NOT NULL REFERENCES cron ON DELETE CASCADE,
    slot timestamptz NOT NULL,
    -- One run per slot, however many workers fire.
    PRIMARY KEY (cron_id, slot)
);
-- crons.queries.sweep_firings.
CREATE INDEX cron_firing_age ON cron_firing (slot);
"""


def upgrade() -> None:
    op.execute(STATEMENTS)


def downgrade() -> None:
    op.execute("DROP TABLE cron_firing, cron")
