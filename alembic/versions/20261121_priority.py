"""Priority: what the owner's handler says of a thread, and the order of the queue by it."""

from alembic import op

revision = "20261121_priority"
down_revision = "20261121_access"

STATEMENTS = """
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

ALTER TABLE thread
    ADD COLUMN priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -5 AND 5),
    -- NULL: nobody has been asked.
    ADD COLUMN fairness_group text;

ALTER TABLE run
    -- Its thread's; NULL: first come, first served.
    ADD COLUMN fairness_group text,
    -- The place in the queue: microseconds of Unix time, or of the queue's own time (next_turn).
    ADD COLUMN turn bigint NOT NULL DEFAULT (extract(epoch FROM now()) * 1000000)::bigint;
UPDATE run SET turn = (extract(epoch FROM due_at) * 1000000)::bigint WHERE queue_state = 'ready';

DROP INDEX run_ready;
-- claim_run: the head of the queue, whatever its length.
CREATE INDEX run_ready ON run (turn) WHERE queue_state = 'ready' AND NOT is_suspect;
-- fair_turn: the end of a group's own queue.
CREATE INDEX run_group ON run (fairness_group, priority, turn)
    WHERE queue_state = 'ready' AND fairness_group IS NOT NULL;

-- Start-time fair queueing (Goyal, Vin, Cheng 1996) between groups and, within one, between
-- priorities: a run begins where the last of its own kind ends, and not before the head of the
-- queue, which is what time it is. How long it seems to take is its share: a second, times 1.5 for
-- each step of priority. So neither a flood of one group nor one of urgent runs starves anybody:
-- who waits is served after a bounded number of others, and after an hour no newcomer passes him.
CREATE FUNCTION fair_turn(of_group text, of_priority smallint) RETURNS bigint
LANGUAGE sql STABLE SET enable_seqscan = off AS $$
    SELECT greatest(
        (extract(epoch FROM now()) * 1000000)::bigint - 3600000000,
        coalesce(
            (SELECT turn - (1000000 * power(1.5, priority))::bigint FROM run
              WHERE queue_state = 'ready' AND NOT is_suspect ORDER BY turn LIMIT 1),
            (extract(epoch FROM now()) * 1000000)::bigint),
        (SELECT turn FROM run
          WHERE queue_state = 'ready' AND fairness_group = of_group AND priority = of_priority
          ORDER BY turn DESC LIMIT 1)
    ) + (1000000 * power(1.5, of_priority))::bigint
$$;

-- The place of a run that gets ready now.
CREATE FUNCTION next_turn(of_group text, of_priority smallint) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN of_group IS NULL THEN (extract(epoch FROM now()) * 1000000)::bigint
                ELSE fair_turn(of_group, of_priority) END
$$;
"""

UNDO = """
SET LOCAL lock_timeout = '5s';
DROP FUNCTION next_turn;
DROP FUNCTION fair_turn;
DROP INDEX run_group;
DROP INDEX run_ready;
ALTER TABLE run DROP COLUMN turn, DROP COLUMN fairness_group;
ALTER TABLE thread DROP COLUMN priority, DROP COLUMN fairness_group;
CREATE INDEX run_ready ON run (priority, due_at) WHERE queue_state = 'ready' AND NOT is_suspect;
"""


def upgrade() -> None:
    op.execute(STATEMENTS)


def downgrade() -> None:
    op.execute(UNDO)
