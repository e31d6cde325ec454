-- The queue's statements. Each is sent in one round trip; two statements in one are one implicit
-- transaction, the second with a snapshot taken after the first has its lock.
--
-- Whether a thread has active runs is asked with ORDER BY and LIMIT 1, never as EXISTS: of a thread
-- with many runs the planner expects an early find anywhere, and reads the whole table for none.

-- name: admit_run
-- Queue a run behind those of its thread. Comes back without a thread_status for an unknown thread,
-- and without a run_id when the thread's status or a busy thread refuses it, or when its assistant
-- is no longer what it was at `assistant_updated_at` (NULL: whatever it is).
SELECT 1 FROM thread WHERE thread_id = :thread_id FOR UPDATE;
WITH target AS (
    SELECT thread_id, metadata, status,
           -- What the thread has already counts, also against who asked at the same time.
           CASE WHEN fairness_group IS NULL THEN coalesce(CAST(:priority AS smallint), priority)
                ELSE priority END AS priority,
           coalesce(fairness_group, CAST(:fairness_group AS text)) AS fairness_group,
           CAST(:assistant_updated_at AS timestamptz) IS NULL OR EXISTS (
               SELECT FROM assistant WHERE assistant_id = :assistant_id
                  AND updated_at = :assistant_updated_at) AS is_current
      FROM thread WHERE thread_id = :thread_id
       -- Only one that the caller may see; without a filter (NULL) there is nothing to look at.
       AND (CAST(:scope AS text) IS NULL OR metadata @@ CAST(:scope AS jsonpath))
), admitted AS (
    INSERT INTO run (run_id, thread_id, assistant_id, graph_id, queue_state, due_at,
                     created_at, multitask_strategy, metadata, kwargs, webhook, priority,
                     fairness_group, turn, is_heard)
    SELECT :run_id, target.thread_id, :assistant_id, :graph_id,
           CASE WHEN CAST(:delay_seconds AS double precision) > 0 THEN 'scheduled'
                WHEN (SELECT sequence FROM run WHERE run.thread_id = :thread_id
                         AND status IN ('pending', 'running')
                         AND (status = 'running' OR queue_state = 'ready')
                       ORDER BY sequence LIMIT 1) IS NOT NULL THEN 'queued'
                ELSE 'ready' END,
           now() + make_interval(secs => :delay_seconds),
           now() + make_interval(secs => :delay_seconds),
           :multitask_strategy,
           CAST(:base_metadata AS jsonb) || target.metadata || CAST(:metadata AS jsonb), :kwargs,
           :webhook, target.priority, target.fairness_group,
           next_turn(target.fairness_group, target.priority), :is_heard
      FROM target
     WHERE is_current
       AND (CAST(:if_thread_status AS text[]) IS NULL OR target.status = ANY (:if_thread_status))
       AND NOT (:multitask_strategy = 'reject' AND (
           SELECT sequence FROM run WHERE run.thread_id = :thread_id
              AND status IN ('pending', 'running') ORDER BY sequence LIMIT 1) IS NOT NULL)
    RETURNING run_id, metadata, created_at, updated_at, queue_state
), touched AS (
    UPDATE thread SET status = 'busy', updated_at = now(),
           -- A thread that is in use does not grow old.
           expires_at = now() + make_interval(secs => ttl_minutes * 60),
           metadata = thread.metadata || CAST(:thread_metadata AS jsonb),
           priority = target.priority, fairness_group = target.fairness_group
      FROM admitted, target WHERE thread.thread_id = :thread_id
)
SELECT target.status AS thread_status, target.is_current, admitted.*
  FROM (SELECT) AS always LEFT JOIN target ON true LEFT JOIN admitted ON true;

-- name: create_thread
-- Make the thread that a run brings along, unless it is there.
INSERT INTO thread (thread_id, metadata, is_temporary, ttl_minutes, ttl_strategy, expires_at)
VALUES (:thread_id, CAST(:new_thread_metadata AS jsonb), :is_temporary,
        :ttl_minutes, :ttl_strategy,
        now() + make_interval(secs => CAST(:ttl_minutes AS double precision) * 60))
ON CONFLICT DO NOTHING;

-- name: claim_run
-- Lease the first due run to one worker. No row: nothing is due. Nobody is told of a claim, so it
-- does not wait for the disk; whatever the worker writes later flushes it, too. A claim that Postgres
-- forgets in a crash is made again, under another token: tokens are times, in microseconds.
UPDATE run SET status = 'running', queue_state = NULL, attempt = attempt + 1,
       lease_token = greatest(lease_token + 1,
                              CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)),
       worker_id = :worker_id,
       lease_expires_at = now() + make_interval(secs => :lease_seconds),
       started_at = coalesce(started_at, now()), updated_at = now()
 WHERE run_id = (SELECT run_id FROM run
                  WHERE queue_state = 'ready' AND due_at <= now() AND NOT is_suspect
                  ORDER BY turn
                    FOR UPDATE SKIP LOCKED LIMIT 1)
RETURNING run_id, thread_id, assistant_id, graph_id, metadata, kwargs, attempt, lease_token,
          cancel_action, started_at, created_at, webhook, started_at = now() AS is_first,
          set_config('synchronous_commit', 'off', true),
          NOT EXISTS (SELECT FROM checkpoints WHERE thread_id = run.thread_id::text) AS is_blank,
          (SELECT event_seq FROM thread WHERE thread.thread_id = run.thread_id) AS event_seq,
          is_heard;

-- name: is_work_due
-- Whether claim_run would find anything. By the turns, so that the index answers.
SELECT (SELECT true FROM run WHERE queue_state = 'ready' AND due_at <= now() AND NOT is_suspect
         ORDER BY turn LIMIT 1) IS NOT NULL AS is_due;

-- name: claim_suspect
-- As claim_run, for a process that executes nothing else.
UPDATE run SET status = 'running', queue_state = NULL, attempt = attempt + 1,
       lease_token = greatest(lease_token + 1,
                              CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)),
       worker_id = :worker_id,
       lease_expires_at = now() + make_interval(secs => :lease_seconds),
       started_at = coalesce(started_at, now()), updated_at = now()
 WHERE run_id = (SELECT run_id FROM run
                  WHERE queue_state = 'ready' AND due_at <= now() AND is_suspect
                  ORDER BY due_at
                    FOR UPDATE SKIP LOCKED LIMIT 1)
RETURNING run_id, thread_id, assistant_id, graph_id, metadata, kwargs, attempt, lease_token,
          cancel_action, started_at, created_at, webhook, started_at = now() AS is_first,
          set_config('synchronous_commit', 'off', true),
          NOT EXISTS (SELECT FROM checkpoints WHERE thread_id = run.thread_id::text) AS is_blank,
          (SELECT event_seq FROM thread WHERE thread.thread_id = run.thread_id) AS event_seq,
          is_heard;

-- name: renew_leases
-- Prolong every lease of a process. A run that does not come back is no longer its own.
UPDATE run SET lease_expires_at = now() + make_interval(secs => :lease_seconds)
  FROM unnest(CAST(:run_ids AS uuid[]), CAST(:lease_tokens AS bigint[])) AS held (run_id, lease_token)
 WHERE run.run_id = held.run_id AND run.lease_token = held.lease_token AND run.status = 'running'
RETURNING run.run_id, run.cancel_action;

-- name: finish_run_if_owned
-- End a run once, and give the thread's slot to the next. No row back: it ended before, the lease
-- moved on, or somebody wished to cancel it since the worker last looked. `is_work_left`: of what was
-- committed when this began, some is due; who commits later rings later. A worker that has no thread
-- to spare claims its next run along with it (`worker_id`; NULL claims none): as claim_run, but
-- another run's end waits for the disk with it.
SELECT 1 FROM thread WHERE thread_id = :thread_id FOR UPDATE;
WITH ended AS (
    UPDATE run SET status = :status, error = :error, worker_id = NULL, lease_expires_at = NULL,
           finished_at = now(), updated_at = now()
     WHERE run_id = :run_id AND lease_token = :lease_token AND status = 'running'
       AND cancel_action IS NOT DISTINCT FROM :cancel_action
    RETURNING run_id
), state AS (
    INSERT INTO thread_state (thread_id, status, config, "values", output, interrupts, error,
                              snapshot)
    SELECT :thread_id, :thread_status, :config, :values, :output, :interrupts, :thread_error,
           :snapshot
      FROM ended
    ON CONFLICT (thread_id) DO UPDATE SET status = excluded.status, config = excluded.config,
       -- A run that stopped before its first checkpoint leaves what was there.
       "values" = coalesce(excluded."values", thread_state."values"),
       output = CASE WHEN excluded."values" IS NULL THEN thread_state.output ELSE excluded.output END,
       interrupts = excluded.interrupts, error = excluded.error, snapshot = excluded.snapshot
), logged AS (
    -- The error event of a resumable run belongs to its replay, and is true from now on.
    INSERT INTO run_event (run_id, first_seq, last_seq, thread_id, frames)
    SELECT run_id, :end_seq, :end_seq, :thread_id, :end_frame
      FROM ended WHERE CAST(:end_frame AS bytea) IS NOT NULL
), numbered AS (
    -- So do the last events of generation 2.
    INSERT INTO thread_event (thread_id, first_seq, last_seq, run_id, spans)
    SELECT :thread_id, :first_event_seq, :last_event_seq, run_id, :spans
      FROM ended WHERE CAST(:spans AS bytea) IS NOT NULL
), promoted AS (
    UPDATE run SET queue_state = 'ready', due_at = now(),
           turn = next_turn(fairness_group, priority)
     WHERE EXISTS (SELECT FROM ended) AND run_id = (
           SELECT run_id FROM run WHERE thread_id = :thread_id AND queue_state = 'queued'
            ORDER BY sequence LIMIT 1)
    RETURNING run_id
), settled AS (
    UPDATE thread SET updated_at = now(), state_updated_at = now(),
           event_seq = coalesce(CAST(:last_event_seq AS bigint), event_seq),
           status = CASE WHEN (
               SELECT sequence FROM run WHERE thread_id = :thread_id AND status = 'pending'
                ORDER BY sequence LIMIT 1) IS NOT NULL
               THEN 'busy' ELSE :thread_status END
     WHERE thread_id = :thread_id AND EXISTS (SELECT FROM ended)
), claimed AS (
    UPDATE run SET status = 'running', queue_state = NULL, attempt = attempt + 1,
           lease_token = greatest(lease_token + 1,
                                  CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)),
           worker_id = :worker_id,
           lease_expires_at = now() + make_interval(secs => CAST(:lease_seconds AS double precision)),
           started_at = coalesce(started_at, now()), updated_at = now()
     WHERE CAST(:worker_id AS text) IS NOT NULL AND EXISTS (SELECT FROM ended) AND run_id = (
           SELECT run_id FROM run
            WHERE queue_state = 'ready' AND due_at <= now() AND NOT is_suspect
            ORDER BY turn
              FOR UPDATE SKIP LOCKED LIMIT 1)
    RETURNING run_id, thread_id, assistant_id, graph_id, metadata, kwargs, attempt, lease_token,
              cancel_action, started_at, created_at, webhook, started_at = now() AS is_first,
              NOT EXISTS (SELECT FROM checkpoints WHERE thread_id = run.thread_id::text) AS is_blank,
              (SELECT event_seq FROM thread WHERE thread.thread_id = run.thread_id) AS event_seq,
              is_heard
)
SELECT EXISTS (SELECT FROM promoted) AS has_next,
       (SELECT true FROM run WHERE queue_state = 'ready' AND due_at <= now() AND NOT is_suspect
         ORDER BY turn LIMIT 1) IS NOT NULL AS is_work_left,
       claimed.*
  FROM ended LEFT JOIN claimed ON true;

-- name: write_checkpoints
-- A run's last checkpoints, for the transaction that ends it, with the conditions of that end: where
-- it is refused they are not written either. It takes the thread's lock in place of the end, before
-- the run's: a run that was changed meanwhile is looked at again.
WITH locked AS MATERIALIZED (
    SELECT thread_id FROM thread WHERE thread_id = :thread_id FOR UPDATE
), owner AS MATERIALIZED (
    SELECT run.run_id FROM locked CROSS JOIN run
     WHERE run.run_id = :run_id AND run.lease_token = :lease_token AND run.status = 'running'
       AND run.cancel_action IS NOT DISTINCT FROM :cancel_action
       FOR NO KEY UPDATE OF run
), heads AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
                             checkpoint, metadata)
    SELECT put.* FROM owner CROSS JOIN json_to_recordset(CAST(:heads AS json)) AS put (
           thread_id text, ns text, id text, parent text, checkpoint jsonb, metadata jsonb)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = excluded.checkpoint, metadata = excluded.metadata
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT put.thread_id, ns, channel, version, type, decode(put.blob, 'base64')
      FROM owner CROSS JOIN json_to_recordset(CAST(:blobs AS json)) AS put (
           thread_id text, ns text, channel text, version text, type text, blob text)
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
), writes AS (
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path,
                                   channel, type, blob)
    SELECT put.thread_id, ns, id, task, idx, path, channel, type, decode(put.blob, 'base64')
      FROM owner CROSS JOIN json_to_recordset(CAST(:writes AS json)) AS put (
           thread_id text, ns text, id text, task text, idx integer, path text, channel text,
           type text, blob text)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
)
SELECT FROM owner;

-- name: finish_temporary_run_if_owned
-- End a stateless run and remove its thread; what a waiting request needs is kept for a while. The
-- lock first: a DELETE that waits for a cancel would go on with what it saw before.
SELECT 1 FROM thread WHERE thread_id = :thread_id FOR UPDATE;
WITH ended AS (
    DELETE FROM thread USING run
     WHERE thread.thread_id = :thread_id AND run.run_id = :run_id
       AND run.thread_id = thread.thread_id
       AND run.lease_token = :lease_token AND run.status = 'running'
       AND run.cancel_action IS NOT DISTINCT FROM :cancel_action
    RETURNING run.run_id, thread.metadata
)
INSERT INTO run_result (run_id, status, output, error, metadata, expires_at)
SELECT run_id, :status, :output, :error, metadata, now() + make_interval(secs => :result_seconds)
  FROM ended
RETURNING NULL AS run_id, false AS has_next,
          (SELECT true FROM run WHERE queue_state = 'ready' AND due_at <= now() AND NOT is_suspect
            ORDER BY turn LIMIT 1) IS NOT NULL AS is_work_left;

-- name: remove_run_if_owned
-- A rolled back run goes as if it had never been; thread_state still holds what was before it.
SELECT 1 FROM thread WHERE thread_id = :thread_id FOR UPDATE;
WITH gone AS (
    DELETE FROM run
     WHERE run_id = :run_id AND lease_token = :lease_token AND status = 'running'
    RETURNING run_id
), numbered AS (
    UPDATE thread SET event_seq = greatest(event_seq, CAST(:last_event_seq AS bigint)) FROM gone
     WHERE thread_id = :thread_id AND event_seq IS NOT NULL
)
SELECT run_id FROM gone;

-- name: release_run
-- Hand a run back unfinished, at the head of its thread's queue. `refund` is 1 when nobody is to
-- blame, so that no attempt is charged.
UPDATE run SET status = 'pending', queue_state = 'ready', worker_id = NULL,
       lease_expires_at = NULL, attempt = attempt - :refund, had_company = false,
       updated_at = now(), due_at = now() + make_interval(secs => :delay_seconds)
 WHERE run_id = :run_id AND lease_token = :lease_token AND status = 'running'
RETURNING run_id;

-- name: find_lease
-- What a worker asks when its finish was refused. No row: the run is somebody else's, or gone.
SELECT cancel_action FROM run
 WHERE run_id = :run_id AND lease_token = :lease_token AND status = 'running';

-- name: expire_leases
-- Workers that are known to be dead: nobody renews their leases, so nobody need wait for them.
UPDATE run SET lease_expires_at = now() - interval '1 millisecond'
 WHERE status = 'running' AND worker_id = ANY (:worker_ids) AND lease_expires_at >= now()
RETURNING run_id, thread_id;

-- name: requeue_expired
-- Give the runs of dead or cut-off workers back to the queue. One that somebody wants to cancel
-- goes back whatever its attempts: the next worker ends it without running it. Where a worker had
-- several runs nobody knows which took it down: their attempts are not charged, but those that this
-- befalls too often are executed apart from then on, where the guilty one is alone.
WITH expired AS (
    SELECT run_id, worker_id, cancel_action IS NULL AND (had_company OR EXISTS (
               SELECT FROM run AS other WHERE other.status = 'running'
                  AND other.worker_id = run.worker_id AND other.run_id <> run.run_id)) AS in_company
      FROM run
     WHERE status = 'running' AND lease_expires_at < now()
     ORDER BY lease_expires_at LIMIT :limit
       FOR UPDATE SKIP LOCKED
), witnesses AS (
    -- Those of the same worker whose leases end a little later were in company all the same.
    UPDATE run SET had_company = true
      FROM (SELECT DISTINCT worker_id FROM expired) AS dead
     WHERE run.worker_id = dead.worker_id AND run.status = 'running' AND NOT run.had_company
       AND run.lease_expires_at >= now()
)
UPDATE run SET status = 'pending', queue_state = 'ready', due_at = now(), worker_id = NULL,
       lease_expires_at = NULL, had_company = false, updated_at = now(),
       attempt = attempt - CASE WHEN in_company THEN 1 ELSE 0 END,
       losses = losses + CASE WHEN in_company THEN 1 ELSE 0 END,
       is_suspect = cancel_action IS NULL
                    AND (is_suspect OR (in_company AND losses + 1 >= :tolerated_losses))
  FROM expired
 WHERE run.run_id = expired.run_id
   AND (in_company OR attempt + losses < :max_attempts OR cancel_action IS NOT NULL)
RETURNING run.run_id, run.thread_id, run.attempt + run.losses AS losses, run.is_suspect;

-- name: find_exhausted
-- Runs that took their worker with them once too often, the last time alone.
SELECT run_id, thread_id, attempt + losses AS losses, lease_token FROM run
 WHERE status = 'running' AND lease_expires_at < now()
   AND attempt + losses >= :max_attempts AND cancel_action IS NULL AND NOT had_company
   AND NOT EXISTS (SELECT FROM run AS other WHERE other.status = 'running'
                      AND other.worker_id = run.worker_id AND other.run_id <> run.run_id)
 ORDER BY lease_expires_at LIMIT :limit;

-- name: fail_exhausted_run
-- End a run that no worker survives. Guarded by the token: whoever sweeps second changes nothing.
-- Somebody may have cancelled it since it was found, or its worker have come back.
SELECT 1 FROM thread WHERE thread_id = :thread_id FOR UPDATE;
WITH ended AS (
    UPDATE run SET status = 'error', error = :error, worker_id = NULL, lease_expires_at = NULL,
           finished_at = now(), updated_at = now()
     WHERE run_id = :run_id AND lease_token = :lease_token AND status = 'running'
       AND lease_expires_at < now() AND cancel_action IS NULL
    RETURNING run_id, webhook
), kept AS (
    INSERT INTO run_result (run_id, status, error, metadata, expires_at)
    SELECT run_id, 'error', :error, thread.metadata, now() + make_interval(secs => :result_seconds)
      FROM ended JOIN thread ON thread_id = :thread_id AND is_temporary
), state AS (
    INSERT INTO thread_state (thread_id, status, error)
    SELECT :thread_id, 'error', :error FROM ended
    ON CONFLICT (thread_id) DO UPDATE SET status = excluded.status, error = excluded.error,
       snapshot = NULL
)
SELECT run_id, webhook FROM ended;

-- name: find_due_runs
-- Scheduled runs whose time has come.
SELECT run_id, thread_id FROM run
 WHERE queue_state = 'scheduled' AND due_at <= now() ORDER BY due_at LIMIT :limit;

-- name: settle_due_run
-- A due run takes its place: the slot if it is free, else the queue.
SELECT 1 FROM thread WHERE thread_id = :thread_id FOR UPDATE;
UPDATE run SET due_at = now(), turn = next_turn(fairness_group, priority),
       queue_state = CASE WHEN (
           SELECT sequence FROM run AS other WHERE other.thread_id = :thread_id
              AND other.status IN ('pending', 'running')
              AND (other.status = 'running' OR other.queue_state = 'ready')
            ORDER BY sequence LIMIT 1) IS NOT NULL
       THEN 'queued' ELSE 'ready' END
 WHERE run_id = :run_id AND queue_state = 'scheduled'
RETURNING queue_state;

-- name: look_around
-- Whether a sweep has anything to do: who holds leases, whether one is over, how many runs are due now,
-- and in how many seconds the next scheduled one is (NULL: none).
SELECT ARRAY(SELECT DISTINCT worker_id FROM run WHERE status = 'running') AS holders,
       EXISTS (SELECT FROM run WHERE status = 'running' AND lease_expires_at < now()) AS has_expired,
       (SELECT count(*) FROM (SELECT FROM run WHERE queue_state = 'ready' AND due_at <= now()
                                 AND NOT is_suspect
                               ORDER BY turn LIMIT :limit) AS due) AS due,
       (SELECT count(*) FROM (SELECT FROM run WHERE queue_state = 'ready' AND due_at <= now()
                                 AND is_suspect
                               ORDER BY due_at LIMIT :limit) AS due) AS suspects,
       (SELECT extract(epoch FROM min(due_at) - now()) FROM run
         WHERE queue_state = 'scheduled') AS next_due_seconds;

-- name: lock_thread
SELECT thread_id, is_temporary FROM thread WHERE thread_id = :thread_id
   AND (CAST(:scope AS text) IS NULL OR metadata @@ CAST(:scope AS jsonpath))
   FOR UPDATE;

-- name: find_active
-- A thread's runs that are running or wait for their turn, oldest first. Under the thread's lock.
SELECT run_id FROM run
 WHERE thread_id = :thread_id AND status IN ('pending', 'running')
   AND queue_state IS DISTINCT FROM 'scheduled'
 ORDER BY sequence;

-- name: cancel_pending
-- End runs that no worker holds, but for those that shall be rolled back: see delete_pending.
UPDATE run SET status = 'interrupted', queue_state = NULL, cancel_action = :action,
       finished_at = now(), updated_at = now()
 WHERE thread_id = :thread_id AND run_id = ANY (CAST(:run_ids AS uuid[])) AND status = 'pending'
   AND cancel_action IS DISTINCT FROM 'rollback'
RETURNING run_id, webhook;

-- name: delete_pending
-- Remove runs that no worker has seen. One that has begun has left checkpoints, which a worker must
-- remove first: it gets the wish instead.
DELETE FROM run
 WHERE thread_id = :thread_id AND run_id = ANY (CAST(:run_ids AS uuid[])) AND status = 'pending'
   AND started_at IS NULL
RETURNING run_id;

-- name: delete_run
-- Remove a run in any status; a running one's worker finds its lease gone. Its events go with it,
-- their numbers are not given again: once its row is locked, none is added.
SELECT 1 FROM run WHERE thread_id = :thread_id AND run_id = :run_id FOR UPDATE;
UPDATE thread SET event_seq = greatest(event_seq, (
           SELECT last_seq FROM thread_event WHERE thread_id = :thread_id
            ORDER BY first_seq DESC LIMIT 1))
 WHERE thread_id = :thread_id AND event_seq IS NOT NULL;
DELETE FROM run WHERE thread_id = :thread_id AND run_id = :run_id
RETURNING run_id, status, graph_id;

-- name: flag_active
-- Leave the wish to stop where the worker's next renewal, finish or claim must see it. Rollback
-- outranks interrupt, so that a run is never asked for less than before. The pending ones are those
-- that cancel_pending or delete_pending has left: they are not to be executed, so they need neither
-- wait nor be alone.
UPDATE run SET cancel_action = CASE WHEN cancel_action = 'rollback' THEN cancel_action
                                    ELSE :action END,
       due_at = CASE WHEN status = 'pending' THEN now() ELSE due_at END,
       is_suspect = is_suspect AND status = 'running'
 WHERE thread_id = :thread_id AND run_id = ANY (CAST(:run_ids AS uuid[]))
   AND status IN ('pending', 'running')
RETURNING run_id, status;

-- name: promote_next
-- Give a free slot to the oldest that waits. Under the thread's lock.
UPDATE run SET queue_state = 'ready', due_at = now(), turn = next_turn(fairness_group, priority)
 WHERE run_id = (SELECT run_id FROM run WHERE thread_id = :thread_id AND queue_state = 'queued'
                  ORDER BY sequence LIMIT 1)
   AND (SELECT sequence FROM run WHERE thread_id = :thread_id
           AND status IN ('pending', 'running') AND (status = 'running' OR queue_state = 'ready')
         ORDER BY sequence LIMIT 1) IS NULL
RETURNING run_id;

-- name: settle_thread
-- The status that follows from the runs left: busy, or the one in which the thread rests.
UPDATE thread SET updated_at = now(),
       status = CASE WHEN (SELECT sequence FROM run WHERE thread_id = :thread_id
                              AND status IN ('pending', 'running')
                            ORDER BY sequence LIMIT 1) IS NOT NULL THEN 'busy'
                     ELSE coalesce((SELECT status FROM thread_state
                                     WHERE thread_id = :thread_id), 'idle') END
 WHERE thread_id = :thread_id;

-- name: delete_idle_temporary_thread
-- A stateless run's thread goes with it.
DELETE FROM thread WHERE thread_id = :thread_id AND is_temporary AND NOT EXISTS (
       SELECT FROM run WHERE thread_id = :thread_id AND status IN ('pending', 'running'));

-- name: find_notice
-- What a webhook is told about a run besides its end.
SELECT run.run_id, run.thread_id, run.assistant_id, run.metadata, run.kwargs,
       run.multitask_strategy, run.created_at, run.started_at, run.webhook, thread.is_temporary,
       CAST(thread.metadata AS text) AS thread_metadata
  FROM run JOIN thread USING (thread_id)
 WHERE run.run_id = :run_id;

-- name: find_last_values
-- What a thread shows, and the time by which this transaction's runs end.
SELECT now() AS ended_at,
       (SELECT "values" FROM thread_state WHERE thread_id = :thread_id) AS last_values;

-- name: add_delivery
INSERT INTO webhook_delivery (delivery_id, run_id, thread_id, kept_run_id, url, host, body, metadata)
VALUES (:delivery_id, :run_id, :thread_id, :kept_run_id, :url, :host, :body,
        CAST(:metadata AS jsonb));

-- name: beat
-- A worker's sign of life, with the slots that it offers.
INSERT INTO worker (worker_id, slots) VALUES (:worker_id, :slots)
ON CONFLICT (worker_id) DO UPDATE SET heartbeat_at = now(), slots = excluded.slots;

-- name: sign_off
-- A worker that leaves, and those that have not been heard of for long.
DELETE FROM worker
 WHERE worker_id = :worker_id OR heartbeat_at < now() - interval '10 minutes';

-- name: sweep_idempotency_keys
DELETE FROM idempotency_key WHERE key IN (
       SELECT key FROM idempotency_key WHERE expires_at < now()
        ORDER BY expires_at LIMIT :limit);

-- name: sweep_results
DELETE FROM run_result WHERE run_id IN (
       SELECT run_id FROM run_result WHERE expires_at < now() ORDER BY expires_at LIMIT :limit);

-- name: sweep_numbered_events
DELETE FROM thread_event WHERE (thread_id, first_seq) IN (
       SELECT thread_event.thread_id, first_seq FROM thread_event JOIN run USING (run_id)
        WHERE thread_event.created_at < now() - make_interval(secs => :ttl_seconds)
          AND run.finished_at < now() - make_interval(secs => :ttl_seconds)
        LIMIT :limit);

-- name: sweep_events
-- Replays are promised for a while after a run's end, not longer.
DELETE FROM run_event WHERE (run_id, first_seq) IN (
       SELECT run_id, first_seq FROM run_event JOIN run USING (run_id)
        WHERE run_event.created_at < now() - make_interval(secs => :ttl_seconds)
          AND run.finished_at < now() - make_interval(secs => :ttl_seconds)
        LIMIT :limit);
