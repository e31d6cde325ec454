"""Assistants, threads, runs and their replay log."""

from alembic import op

revision = "20261121_first_tables"
down_revision = None

STATEMENTS = """
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE deployment (
    deployment_id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- One row for ever.
CREATE UNIQUE INDEX deployment_is_one ON deployment ((true));
INSERT INTO deployment (deployment_id) VALUES (gen_random_uuid());

CREATE TABLE assistant (
    assistant_id uuid PRIMARY KEY,
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config bytea NOT NULL,
    context bytea NOT NULL,
    metadata jsonb NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
-- assistants.queries.search: newest first, by graph, by metadata.
CREATE INDEX assistant_created ON assistant (created_at DESC, assistant_id);
CREATE INDEX assistant_graph ON assistant (graph_id, created_at DESC);
CREATE INDEX assistant_metadata ON assistant USING gin (metadata jsonb_path_ops);

CREATE TABLE assistant_version (
    assistant_id uuid NOT NULL REFERENCES assistant ON DELETE CASCADE,
    version integer NOT NULL CHECK (version > 0),
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config bytea NOT NULL,
    context bytea NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (assistant_id, version)
);

CREATE TABLE thread (
    thread_id uuid PRIMARY KEY,
    metadata jsonb NOT NULL,
    status text NOT NULL DEFAULT 'idle'
        CHECK (status IN ('idle', 'busy', 'interrupted', 'error')),
    is_temporary boolean NOT NULL DEFAULT false,
    ttl_minutes double precision CHECK (ttl_minutes > 0),
    ttl_strategy text CHECK (ttl_strategy IN ('delete', 'keep_latest')),
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    state_updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((ttl_minutes IS NULL) = (ttl_strategy IS NULL))
) WITH (fillfactor = 80);
-- threads.queries.search. None on status or updated_at: every run changes both, and an index on
-- either would cost each change a new entry in all of them (no HOT update).
CREATE INDEX thread_created ON thread (created_at DESC, thread_id);
CREATE INDEX thread_metadata ON thread USING gin (metadata jsonb_path_ops);
-- The sweep of expired threads.
CREATE INDEX thread_expiry ON thread (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE thread_state (
    thread_id uuid PRIMARY KEY REFERENCES thread ON DELETE CASCADE,
    config bytea,
    status text NOT NULL DEFAULT 'idle' CHECK (status IN ('idle', 'interrupted', 'error')),
    "values" bytea,
    output bytea,
    interrupts bytea,
    error bytea
);

CREATE TABLE run (
    run_id uuid PRIMARY KEY,
    thread_id uuid NOT NULL REFERENCES thread ON DELETE CASCADE,
    assistant_id uuid NOT NULL,
    graph_id text NOT NULL,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')),
    queue_state text CHECK (queue_state IN ('scheduled', 'queued', 'ready')),
    priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -5 AND 5),
    due_at timestamptz NOT NULL DEFAULT now(),
    multitask_strategy text NOT NULL
        CHECK (multitask_strategy IN ('enqueue', 'reject', 'interrupt', 'rollback')),
    metadata jsonb NOT NULL,
    kwargs bytea NOT NULL,
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    lease_token bigint NOT NULL DEFAULT 0,
    worker_id text,
    lease_expires_at timestamptz,
    cancel_action text CHECK (cancel_action IN ('interrupt', 'rollback', 'delete')),
    error bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    CHECK ((status = 'pending') = (queue_state IS NOT NULL)),
    CHECK ((status = 'running') = (lease_expires_at IS NOT NULL)),
    CHECK ((status = 'running') = (worker_id IS NOT NULL)),
    CHECK ((status IN ('success', 'error', 'timeout', 'interrupted')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 70);
-- The slot of a thread: one run is running or next, never two.
CREATE UNIQUE INDEX run_slot ON run (thread_id) WHERE status = 'running' OR queue_state = 'ready';
-- claim_run: the head of the queue, whatever its length.
CREATE INDEX run_ready ON run (priority, due_at) WHERE queue_state = 'ready';
-- promote_next: the oldest that waits on a thread.
CREATE INDEX run_queued ON run (thread_id, sequence) WHERE queue_state = 'queued';
-- find_due_runs.
CREATE INDEX run_scheduled ON run (due_at) WHERE queue_state = 'scheduled';
-- renew_leases and find_expired_leases: as many rows as there are slots.
CREATE INDEX run_running ON run (worker_id) WHERE status = 'running';
-- find_active, settle_thread, multitask rules: nobody reads past what has ended on a thread.
CREATE INDEX run_active ON run (thread_id, sequence) WHERE status IN ('pending', 'running');
-- The list of a thread's runs, newest first.
CREATE INDEX run_thread ON run (thread_id, sequence DESC);

CREATE TABLE idempotency_key (
    key text PRIMARY KEY,
    fingerprint bytea NOT NULL,
    thread_id uuid REFERENCES thread ON DELETE CASCADE,
    run_id uuid NOT NULL,
    response bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
-- The sweep of spent keys, and the cascade from a thread.
CREATE INDEX idempotency_key_expiry ON idempotency_key (expires_at);
CREATE INDEX idempotency_key_thread ON idempotency_key (thread_id) WHERE thread_id IS NOT NULL;

CREATE TABLE run_result (
    run_id uuid PRIMARY KEY,
    status text NOT NULL,
    output bytea,
    error bytea,
    expires_at timestamptz NOT NULL
);
-- The sweep of results that nobody fetched.
CREATE INDEX run_result_expiry ON run_result (expires_at);

-- Who works, for /metrics: written with every renewal of leases, worth as long as it is fresh.
CREATE UNLOGGED TABLE worker (
    worker_id text PRIMARY KEY,
    slots integer NOT NULL,
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

CREATE UNLOGGED TABLE run_event (
    run_id uuid NOT NULL REFERENCES run ON DELETE CASCADE,
    first_seq integer NOT NULL,
    last_seq integer NOT NULL,
    thread_id uuid NOT NULL,
    frames bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, first_seq),
    CHECK (first_seq <= last_seq)
);
-- Replay of a thread's stream, in the order of writing.
CREATE INDEX run_event_thread ON run_event (thread_id, created_at);
-- The sweep of old events.
CREATE INDEX run_event_age ON run_event USING brin (created_at);
"""


def upgrade() -> None:
    op.execute(STATEMENTS)


def downgrade() -> None:
    op.execute(
        "DROP TABLE run_event, worker, run_result, idempotency_key, run, thread_state, thread, "
        "assistant_version, "
        "assistant, deployment"
    )
