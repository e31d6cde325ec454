"""Protocol: the numbered events of threads, for the clients of generation 2."""

from alembic import op

revision = "20261121_protocol"
down_revision = "20261121_snapshot"

STATEMENTS = """
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE thread ADD COLUMN event_seq bigint CHECK (event_seq >= 0);

-- Logged, unlike run_event: a number that a client has seen must never be given again.
CREATE TABLE thread_event (
    thread_id uuid NOT NULL REFERENCES thread ON DELETE CASCADE,
    first_seq bigint NOT NULL CHECK (first_seq > 0),
    last_seq bigint NOT NULL,
    run_id uuid NOT NULL REFERENCES run ON DELETE CASCADE,
    spans bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (thread_id, first_seq),
    CHECK (first_seq <= last_seq)
);
-- The cascade from a run.
CREATE INDEX thread_event_run ON thread_event (run_id);
-- The sweep of old events.
CREATE INDEX thread_event_age ON thread_event USING brin (created_at);
"""


def upgrade() -> None:
    op.execute(STATEMENTS)


def downgrade() -> None:
    op.execute("DROP TABLE thread_event; ALTER TABLE thread DROP COLUMN event_seq")
