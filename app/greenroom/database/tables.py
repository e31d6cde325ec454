"""The tables as SQLAlchemy sees them; the migrations make them, and a test compares both."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from greenroom import encryption, wire


class JsonBytes(TypeDecorator[Any]):
    """A payload that no query looks into: JSON text kept as bytes. SQL NULL is Python's None.

    Encrypted where there is a key. Who binds or reads such a column by a text does so, too.
    """

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> bytes | None:
        """Encode on the way in; bytes are taken as JSON already encoded."""
        if value is None:
            return None
        return encryption.seal(value if isinstance(value, bytes) else wire.dumps(value))

    def process_result_value(self, value: Any, _dialect: Dialect) -> Any:
        """Decode on the way out."""
        return None if value is None else wire.loads(encryption.unseal(value))


metadata = MetaData()
NOW = text("now()")
NOW_MICROSECONDS = text("(extract(epoch FROM now()) * 1000000)::bigint")
INSTANT = DateTime(timezone=True)

assistant = Table(
    "assistant",
    metadata,
    Column("assistant_id", Uuid, primary_key=True),
    Column("graph_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("config", JsonBytes, nullable=False),
    Column("context", JsonBytes, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    Column("updated_at", INSTANT, nullable=False, server_default=NOW),
)

assistant_version = Table(
    "assistant_version",
    metadata,
    Column(
        "assistant_id",
        Uuid,
        ForeignKey("assistant.assistant_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("version", Integer, primary_key=True),
    Column("graph_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("config", JsonBytes, nullable=False),
    Column("context", JsonBytes, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
)

thread = Table(
    "thread",
    metadata,
    Column("thread_id", Uuid, primary_key=True),
    Column("metadata", JSONB, nullable=False),
    Column("status", Text, nullable=False, server_default="idle"),
    # Made for one stateless run; goes with it unless on_completion keeps it, which clears this.
    Column("is_temporary", Boolean, nullable=False, server_default=text("false")),
    Column("ttl_minutes", Float),
    Column("ttl_strategy", Text),
    Column("expires_at", INSTANT),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    Column("updated_at", INSTANT, nullable=False, server_default=NOW),
    Column("state_updated_at", INSTANT, nullable=False, server_default=NOW),
    # The number of the last event that ended runs left in thread_event; None: nobody has asked for
    # the thread's numbered events, so none are made.
    Column("event_seq", BigInteger),
    # What the owner's priority handler said; without a group nobody has been asked.
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("fairness_group", Text),
)

# What the last run or update left; apart, so that a search over threads never reads it.
# No row: nothing has run yet.
thread_state = Table(
    "thread_state",
    metadata,
    Column("thread_id", Uuid, ForeignKey("thread.thread_id", ondelete="CASCADE"), primary_key=True),
    Column("config", JsonBytes),
    # The status in which the thread rests when no run is active on it.
    Column("status", Text, nullable=False),
    Column("values", JsonBytes),
    # What wait and join answer where an output schema leaves channels out; None: the values.
    Column("output", JsonBytes),
    Column("interrupts", JsonBytes),
    Column("error", JsonBytes),
    # The newest state without its values, as it is shown while no run is active; None: unknown.
    Column("snapshot", JsonBytes),
)

run = Table(
    "run",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("thread_id", Uuid, ForeignKey("thread.thread_id", ondelete="CASCADE"), nullable=False),
    # Without a foreign key: a run's record outlives its assistant.
    Column("assistant_id", Uuid, nullable=False),
    Column("graph_id", Text, nullable=False),
    # The order of arrival on a thread; given under the thread's lock.
    Column("sequence", BigInteger, Identity(always=True), nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    # Where a pending run waits (greenroom.queue.states); None once it runs.
    Column("queue_state", Text),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("fairness_group", Text),
    # The place among those that are ready (next_turn).
    Column("turn", BigInteger, nullable=False, server_default=NOW_MICROSECONDS),
    # When it may start: in the future for after_seconds and for the back-off of a retry.
    Column("due_at", INSTANT, nullable=False, server_default=NOW),
    Column("multitask_strategy", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("kwargs", JsonBytes, nullable=False),
    # Claims that count against max_attempts; a hand-back at shutdown takes its one back.
    Column("attempt", Integer, nullable=False, server_default="0"),
    # The fence: grows with every claim and never goes back.
    Column("lease_token", BigInteger, nullable=False, server_default="0"),
    # Losses beside other runs, which are not charged as attempts; then suspects are run apart.
    Column("losses", SmallInteger, nullable=False, server_default="0"),
    Column("had_company", Boolean, nullable=False, server_default=text("false")),
    Column("is_suspect", Boolean, nullable=False, server_default=text("false")),
    Column("is_heard", Boolean, nullable=False, server_default=text("true")),
    Column("worker_id", Text),
    Column("lease_expires_at", INSTANT),
    # The wish to stop: interrupt, rollback or delete; None when nobody asked.
    Column("cancel_action", Text),
    Column("error", JsonBytes),
    # Whom to tell about the end; also in kwargs. None: nobody.
    Column("webhook", Text),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    Column("updated_at", INSTANT, nullable=False, server_default=NOW),
    Column("started_at", INSTANT),
    Column("finished_at", INSTANT),
)

# What a stateless run left for the request that waits for it; swept when it expires. No foreign
# key: its run and thread are gone by then.
run_result = Table(
    "run_result",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("status", Text, nullable=False),
    Column("output", JsonBytes),
    Column("error", JsonBytes),
    # Of its thread, for the filters of callers; None in rows of an older release.
    Column("metadata", JSONB),
    Column("expires_at", INSTANT, nullable=False),
)

# What a client's Idempotency-Key stands for. The thread is None for a temporary one, so that the
# key outlives it; a kept thread takes its keys along.
idempotency_key = Table(
    "idempotency_key",
    metadata,
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("thread_id", Uuid, ForeignKey("thread.thread_id", ondelete="CASCADE")),
    Column("run_id", Uuid, nullable=False),
    Column("response", JsonBytes, nullable=False),
    Column("expires_at", INSTANT, nullable=False),
)

# The replay log: batches of events as the bytes that clients read. Unlogged: worth two minutes.
run_event = Table(
    "run_event",
    metadata,
    Column("run_id", Uuid, ForeignKey("run.run_id", ondelete="CASCADE"), primary_key=True),
    Column("first_seq", Integer, primary_key=True),
    Column("last_seq", Integer, nullable=False),
    Column("thread_id", Uuid, nullable=False),
    Column("frames", LargeBinary, nullable=False),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    prefixes=["UNLOGGED"],
)

# The events of generation 2, numbered over all runs of a thread (greenroom.streaming.spans).
thread_event = Table(
    "thread_event",
    metadata,
    Column("thread_id", Uuid, ForeignKey("thread.thread_id", ondelete="CASCADE"), primary_key=True),
    Column("first_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("run_id", Uuid, ForeignKey("run.run_id", ondelete="CASCADE"), nullable=False),
    Column("spans", LargeBinary, nullable=False),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
)

cron = Table(
    "cron",
    metadata,
    Column("cron_id", Uuid, primary_key=True),
    Column(
        "assistant_id",
        Uuid,
        ForeignKey("assistant.assistant_id", ondelete="CASCADE"),
        nullable=False,
    ),
    # None: each run makes a thread of its own.
    Column("thread_id", Uuid, ForeignKey("thread.thread_id", ondelete="CASCADE")),
    Column("user_id", Text, nullable=False, server_default=""),
    # Who made it, as its runs are told, and which threads that caller may use; None: anyone.
    Column("creator", JsonBytes),
    Column("schedule", Text, nullable=False),
    # An IANA name; None is UTC.
    Column("timezone", Text),
    # Nothing starts at or after it; None: it goes on for ever.
    Column("end_time", INSTANT),
    # The request as it was sent and patched, with its own id in config.configurable.
    Column("payload", JsonBytes, nullable=False),
    Column("metadata", JSONB, nullable=False),
    # Delete or keep, of the threads that it makes; None on a thread's cron.
    Column("on_run_completed", Text),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    # The slot that fires next; None once no slot is left before the end.
    Column("next_run_date", INSTANT),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    Column("updated_at", INSTANT, nullable=False, server_default=NOW),
)

# The slots that a cron has used up; swept when they are too old to come again.
cron_firing = Table(
    "cron_firing",
    metadata,
    Column("cron_id", Uuid, ForeignKey("cron.cron_id", ondelete="CASCADE"), primary_key=True),
    Column("slot", INSTANT, primary_key=True),
)

# What is owed to the webhooks of runs that have ended; swept some days after its own end.
webhook_delivery = Table(
    "webhook_delivery",
    metadata,
    Column("delivery_id", Uuid, primary_key=True),
    # Without foreign keys: a stateless run and its thread are gone before their webhook is called.
    Column("run_id", Uuid, nullable=False),
    Column("thread_id", Uuid, nullable=False),
    # The run again where its row stays, so that whoever deletes it or its thread deletes this too.
    Column("kept_run_id", Uuid, ForeignKey("run.run_id", ondelete="CASCADE")),
    Column("url", Text, nullable=False),
    # Host and port of the URL; empty for a path of our own.
    Column("host", Text, nullable=False),
    # What is sent, but for the time of sending. None once it has been delivered.
    Column("body", JsonBytes),
    # Claims, of which each makes one attempt.
    Column("attempts", Integer, nullable=False, server_default="0"),
    # When it is due. A claim moves it on to when its lease runs out. None: there is no more to do.
    Column("next_attempt_at", INSTANT, server_default=NOW),
    Column("delivered_at", INSTANT),
    # Of the last attempt: the HTTP status, None without an answer; and why it failed.
    Column("last_status", Integer),
    Column("last_error", Text),
    # Of the run's thread, for the filters of callers; None in rows of an older release.
    Column("metadata", JSONB),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
)

# A worker process and its last sign of life.
worker = Table(
    "worker",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column("slots", Integer, nullable=False),
    Column("heartbeat_at", INSTANT, nullable=False, server_default=NOW),
    prefixes=["UNLOGGED"],
)

deployment = Table(
    "deployment",
    metadata,
    Column("deployment_id", Uuid, primary_key=True),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
)
