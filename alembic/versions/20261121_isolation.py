"""Isolation: runs that were lost with their worker time and again are executed apart."""

from alembic import op

revision = "20261121_isolation"
down_revision = "20261121_webhooks"

STATEMENTS = """
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE run
    -- Losses of a worker that had other runs, too: nobody knows whose fault it was.
    ADD COLUMN losses smallint NOT NULL DEFAULT 0 CHECK (losses >= 0),
    -- Another run of this run's worker has been found lost.
    ADD COLUMN had_company boolean NOT NULL DEFAULT false,
    -- Lost in company too often: to be executed in a process of its own.
    ADD COLUMN is_suspect boolean NOT NULL DEFAULT false;

-- A queue's dead rows lie where claims look first: they must go early, not at a fifth of the table.
ALTER TABLE run SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

DROP INDEX run_ready;
-- claim_run: the head of the queue, whatever its length.
CREATE INDEX run_ready ON run (priority, due_at) WHERE queue_state = 'ready' AND NOT is_suspect;
-- claim_suspect.
CREATE INDEX run_suspect ON run (due_at) WHERE queue_state = 'ready' AND is_suspect;
"""

UNDO = """
SET LOCAL lock_timeout = '5s';
DROP INDEX run_suspect;
DROP INDEX run_ready;
ALTER TABLE run RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor);
ALTER TABLE run DROP COLUMN losses, DROP COLUMN had_company, DROP COLUMN is_suspect;
CREATE INDEX run_ready ON run (priority, due_at) WHERE queue_state = 'ready';
"""


def upgrade() -> None:
    op.execute(STATEMENTS)


def downgrade() -> None:
    op.execute(UNDO)
