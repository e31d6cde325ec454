"""Reduce a thread to its newest checkpoints: strategy keep_latest of prune and of ttl."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from greenroom.database.pages import AnyRow
from greenroom.database.scope import Scope, is_visible

# Nothing writes checkpoints of a thread that is locked and has no active run: nobody admits one.
LOCK_IDLE_THREAD = text(
    f"""
    SELECT 1 FROM thread WHERE thread_id = :thread_id AND {is_visible("metadata")} FOR UPDATE;
    SELECT thread_id FROM thread
     WHERE thread_id = :thread_id AND {is_visible("metadata")} AND NOT EXISTS (
           SELECT FROM run WHERE run.thread_id = :thread_id AND status IN ('pending', 'running'))
    """
)
# Such a channel is rebuilt from older checkpoints. The two keys and the inline `true` in front of a
# blob are langgraph's marks of it (langgraph-checkpoint-postgres, prune).
HAS_DELTA_CHANNEL = text(
    """
    SELECT EXISTS (
        SELECT FROM checkpoints WHERE thread_id = :thread_id
           AND (metadata ? 'counters_since_delta_snapshot'
                OR metadata ? 'delta_writes_versioned')
    ) OR EXISTS (
        SELECT FROM checkpoints AS c
         CROSS JOIN LATERAL jsonb_each(c.checkpoint -> 'channel_values') AS inline
          JOIN checkpoint_blobs AS b
            ON b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
           AND b.channel = inline.key
           AND b.version = c.checkpoint -> 'channel_versions' ->> inline.key
         WHERE c.thread_id = :thread_id AND inline.value = 'true')
    """
)
# Checkpoints before version 4 left the sends of a step with their parent.
FIND_HEADS = text(
    """
    SELECT DISTINCT ON (checkpoint_ns) checkpoint_ns, checkpoint_id,
           metadata -> 'parents' ->> '' AS root_id,
           CASE WHEN CAST(checkpoint ->> 'v' AS int) < 4 THEN parent_checkpoint_id END AS sends_id
      FROM checkpoints WHERE thread_id = :thread_id
     ORDER BY checkpoint_ns, checkpoint_id DESC
    """
)
# In this order: each looks at the checkpoints that the first has left.
DELETE_THE_REST = text(
    """
    DELETE FROM checkpoints WHERE thread_id = :thread_id AND NOT EXISTS (
        SELECT FROM unnest(CAST(:namespaces AS text[]), CAST(:ids AS text[])) AS kept (ns, id)
         WHERE kept.ns = checkpoint_ns AND kept.id = checkpoint_id);
    DELETE FROM checkpoint_writes AS writes WHERE thread_id = :thread_id AND NOT EXISTS (
        SELECT FROM checkpoints AS kept WHERE kept.thread_id = :thread_id
           AND kept.checkpoint_ns = writes.checkpoint_ns
           AND kept.checkpoint_id = writes.checkpoint_id);
    DELETE FROM checkpoint_blobs AS blobs WHERE thread_id = :thread_id AND NOT EXISTS (
        SELECT FROM checkpoints AS kept WHERE kept.thread_id = :thread_id
           AND kept.checkpoint_ns = blobs.checkpoint_ns
           AND kept.checkpoint -> 'channel_versions' ->> blobs.channel = blobs.version);
    UPDATE checkpoints AS kept SET parent_checkpoint_id = NULL
     WHERE thread_id = :thread_id AND parent_checkpoint_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM checkpoints AS parent WHERE parent.thread_id = :thread_id
           AND parent.checkpoint_ns = kept.checkpoint_ns
           AND parent.checkpoint_id = kept.parent_checkpoint_id)
    """
)


def keep_latest(connection: Connection, thread_id: UUID, scope: Scope = None) -> bool:
    """Keep the newest checkpoint of each namespace, and what it needs. Wants a transaction.

    Returns:
        False, and nothing has changed: no such thread, a busy one, or one with a DeltaChannel,
        whose newest value is made of all the older checkpoints.
    """
    parameters = {"thread_id": str(thread_id)}
    locked = connection.execute(
        LOCK_IDLE_THREAD, {"thread_id": thread_id, "scope": scope}
    ).one_or_none()
    if locked is None or connection.execute(HAS_DELTA_CHANNEL, parameters).scalar_one():
        return False
    kept = _choose(connection.execute(FIND_HEADS, parameters).all())
    connection.execute(
        DELETE_THE_REST,
        {
            **parameters,
            "namespaces": [namespace for namespace, _ in kept],
            "ids": [checkpoint_id for _, checkpoint_id in kept],
        },
    )
    return True


def _choose(heads: Sequence[AnyRow]) -> list[tuple[str, str]]:
    """Choose what stays: (namespace, checkpoint id).

    A call of a nested graph, whose namespace ends in a task id, goes with the root checkpoint that
    it belongs to; a nested graph with a memory of its own has no task id, and stays.
    """
    root_ids = {
        checkpoint_id
        for head in heads
        if head.checkpoint_ns == ""
        for checkpoint_id in (head.checkpoint_id, head.sends_id)
    }
    kept = [
        head
        for head in heads
        if ":" not in head.checkpoint_ns or head.root_id is None or head.root_id in root_ids
    ]
    return [
        (head.checkpoint_ns, checkpoint_id)
        for head in kept
        for checkpoint_id in (head.checkpoint_id, head.sends_id)
        if checkpoint_id
    ]
