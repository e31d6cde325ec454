"""The worker's checkpointer: langgraph's tables and format, one run's view of them."""

import asyncio
import contextlib
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from copy import copy
from functools import lru_cache
from inspect import signature
from typing import Any, Self, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.base import BasePostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from psycopg.rows import DictRow

from greenroom import encryption, wire
from greenroom.graphs.checkpoint_clock import observe
from greenroom.graphs.group_commit import (
    NEWEST,
    Chain,
    CheckpointStore,
    Put,
    ReadPool,
    settle,
    translated,
)
from greenroom.graphs.held import Held, as_rows
from greenroom.graphs.recent import Head, Recent, as_row
from greenroom.graphs.serde import Serializer, is_inline
from greenroom.queue.life import Checkpoints, Lease

T = TypeVar("T")

LARGEST_PENDING_BYTES = 16 * 1024 * 1024
MOST_DECODERS = 16
"""One for each list of allowed classes, of which a process has few."""
MOST_PENDING = 16
"""Of one run: beyond this it waits for its commits, so that a crash costs it few steps."""


class Decoder(PostgresSaver):
    """Decodes rows, from any thread."""

    def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        metadata = encryption.unseal_members(value["metadata"])
        return super()._load_checkpoint_tuple({**value, "metadata": metadata})


class RowReader(Decoder):
    """Reads one checkpoint, and keeps the row that it was decoded from."""

    row: DictRow | None = None

    def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        self.row = value
        return super()._load_checkpoint_tuple(value)


def dumps_metadata(metadata: Any) -> bytes:
    """A checkpoint's metadata as JSON that JSONB can hold."""
    return wire.dumps_clean(metadata, repr)


async def end_of(put: Put) -> None:
    """Wait until a put is committed, which wakes the caller's loop; not where it is by now.

    Raises:
        LeaseLost, DatabaseUnavailable: it cannot be.
    """
    if put.done.done() and not put.done.cancelled():
        put.done.result()
    else:
        await asyncio.wrap_future(put.done)


@lru_cache(MOST_DECODERS)
def decoder_of(reads: ReadPool, serde: SerializerProtocol) -> Decoder:
    """Decodes what runs remember of their own checkpoints, and outlives them: it keeps no row."""
    return Decoder(reads, serde=serde)


class FencedSaver(BasePostgresSaver):
    """One run's view of the checkpoints: reads any thread, writes only while the lease holds.

    Used on the run's own loop, or synchronously from its threads. Every method raises
    DatabaseUnavailable for a passing fault, and writes raise LeaseLost, be it for an earlier one.

    Args:
        is_blank: the thread is known to have no checkpoint yet.
        awaits_commits: each write returns when it is committed. Otherwise they return at once, are
            committed in their order, and `settled` tells the end: for langgraph's durabilities
            "async" and "exit", which promise no more.
        may_hold: they are not even begun for a moment, so that `taken_with` may commit them with
            the end of the run.
        before_writes: awaited before each write of the run's loop.
    """

    def __init__(
        self,
        store: CheckpointStore,
        lease: Lease,
        *,
        is_blank: bool = False,
        awaits_commits: bool = True,
        may_hold: bool = False,
        before_writes: Callable[[], Awaitable[None]] | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        if isinstance(serde, Serializer):
            # The base class would look for each method of it, which takes longer than a write.
            self.serde = serde
        else:
            super().__init__(serde=serde)
        self.before_writes = before_writes
        self.store = store
        self.lease = lease
        self.awaits_commits = awaits_commits
        self._recent = Recent(is_blank=is_blank)
        self._chain = Chain()
        self._pending: deque[Put] = deque()
        self._clone: Self | None = None
        """The last copy that langgraph was given: it asks for one twice a run."""
        self._held = Held(store) if may_hold and not awaits_commits else None

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        """See the base class, which looks at the serializer anew each time."""
        if not isinstance(self.serde, Serializer):
            return super().with_allowlist(extra_allowlist)  # type: ignore[return-value]
        serde = self.serde.with_msgpack_allowlist(extra_allowlist)
        if serde is self.serde:
            return self
        if self._clone is None or self._clone.serde is not serde:
            self._clone = clone = copy(self)
            clone.serde = serde
            clone._clone = None  # noqa: SLF001 (our own)
        return self._clone

    @property
    def reader(self) -> RowReader:
        """Reads as this saver does: langgraph gives its copies other serializers."""
        return RowReader(self.store.reads, serde=self.serde)

    async def settled(self, *, may_hold: bool = False) -> None:
        """Return when everything is committed.

        Args:
            may_hold: what is held stays so, for `taken_with`.
        """
        if self._held is not None and not may_hold:
            self._held.release()
        while begun := self._begun():
            # They are committed in their order, and none after one that failed.
            await end_of(begun[-1])
            for put in begun:
                self._drop(put)

    async def taken_with(self, end: Callable[[Checkpoints | None], bool]) -> bool:
        """Commit what is held with the end of the run; what was begun before comes first.

        Where something is known to have failed nothing more is written.

        Args:
            end: writes the end, and the checkpoints that it is given in the same transaction;
                False: neither. It is asked again once they are committed without it.
        Returns:
            What `end` said the last time.
        """
        held = self._held.take() if self._held is not None else []
        begun = list(self._pending)[: len(self._pending) - len(held)]
        if under_way := [asyncio.wrap_future(put.done) for put in begun if not put.done.done()]:
            await asyncio.gather(*under_way, return_exceptions=True)
        if not held or self._chain.error is not None:
            return end(None)
        rows = as_rows(held)
        if rows is not None and end(rows):
            settle(held, None)
            self._pending.clear()
            return True
        for put in held:
            self.store.submit(put)
        await self.settled()
        return end(None)

    def _begun(self) -> list[Put]:
        """The puts that are not committed, or not known to be, without those that are held."""
        held = self._held.count if self._held is not None else 0
        pending = list(self._pending)
        return pending[: len(pending) - held]

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See the base class. Blocks the run's own loop for one round trip."""
        return self.get_tuple(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 (the base class's name)
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See the base class."""
        for found in self.list(config, filter=filter, before=before, limit=limit):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See the base class."""
        if self.before_writes is not None:
            await self.before_writes()
        put = Put(self.lease, self._chain)
        pointer = self._fill_checkpoint(put, config, checkpoint, metadata, new_versions)
        await self._write(put)
        return pointer

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """See the base class."""
        if self.before_writes is not None:
            await self.before_writes()
        put = Put(self.lease, self._chain)
        self._fill_writes(put, config, writes, task_id, task_path)
        await self._write(put)

    async def adelete_thread(self, thread_id: str) -> None:
        """See the base class."""
        self.delete_thread(thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove every checkpoint that these runs wrote on the lease's thread."""
        self._recent.forget()
        await self.settled()
        await self._there(self.store.delete_for_runs(self.lease, run_ids))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See the base class."""
        return self.get_delta_channel_history(config=config, channels=channels)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See the base class."""
        self._settle()
        with translated():
            return self.reader.get_delta_channel_history(config=config, channels=channels)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See the base class. The run's own newest checkpoint costs no round trip."""
        configurable = config["configurable"]
        thread_id = str(configurable["thread_id"])
        ns = configurable.get("checkpoint_ns", "")
        checkpoint_id = get_checkpoint_id(config)
        is_own = thread_id == str(self.lease.thread_id)
        if is_own and self._recent.is_empty(ns):
            return None
        if is_own and (head := self._recent.find(ns, checkpoint_id)) is not None:
            decoder = decoder_of(self.store.reads, self.serde)  # type: ignore[arg-type]
            return decoder._load_checkpoint_tuple(as_row(thread_id, ns, head))  # noqa: SLF001
        self._settle()
        reader = RowReader(self.store.reads, serde=self.serde)
        with translated():
            found = reader.get_tuple(config)
            if found is not None:
                observe(found.checkpoint["id"])
                if checkpoint_id is not None:
                    self._observe_newest(found)
        if is_own and not checkpoint_id:
            self._recent.read(ns, reader.row)
        return found

    def _observe_newest(self, found: CheckpointTuple) -> None:
        """What goes on from an older checkpoint becomes the newest of the thread all the same."""
        configurable = found.config["configurable"]
        with self.store.reads.connection() as connection:
            row = connection.execute(
                NEWEST, (configurable["thread_id"], configurable["checkpoint_ns"])
            ).fetchone()
        if row is not None and row["newest"] is not None:
            observe(row["newest"])

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 (the base class's name)
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """See the base class."""
        self._settle()
        with translated():
            yield from self.reader.list(config, filter=filter, before=before, limit=limit)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See the base class; for sync code in a run's own threads."""
        put = Put(self.lease, self._chain)
        pointer = self._fill_checkpoint(put, config, checkpoint, metadata, new_versions)
        self._submit(put)
        if self.awaits_commits:
            self._settle()
        return pointer

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """See the base class; for sync code in a run's own threads."""
        put = Put(self.lease, self._chain)
        self._fill_writes(put, config, writes, task_id, task_path)
        self._submit(put)
        if self.awaits_commits:
            self._settle()

    def delete_thread(self, thread_id: str) -> None:
        """See the base class."""
        self._recent.forget()
        self._settle()
        with translated():
            self.reader.delete_thread(thread_id)

    async def _write(self, put: Put) -> None:
        self._submit(put)
        if self.awaits_commits:
            await end_of(put)
        elif (
            len(self._pending) > MOST_PENDING
            or sum(waiting.size_bytes for waiting in self._pending) > LARGEST_PENDING_BYTES
        ):
            await self.settled()

    def _submit(self, put: Put) -> None:
        """Send a put on its way, unless an earlier one is known to have failed."""
        for earlier in list(self._pending):
            if not earlier.done.done():
                break
            earlier.done.result()
            self._drop(earlier)
        self._pending.append(put)
        if self._held is None:
            self.store.submit(put)
        else:
            self._held.add(put)

    def _settle(self) -> None:
        """As `settled`, for a thread that may block: Postgres must know what it is asked about."""
        if self._held is not None:
            self._held.release()
        for put in list(self._pending):
            put.done.result()
            self._drop(put)

    def _drop(self, put: Put) -> None:
        # Several tasks and threads of a graph may have waited for the same one.
        with contextlib.suppress(ValueError):
            self._pending.remove(put)

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        with translated():
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(work, self.store.loop)
            )

    def _fill_checkpoint(
        self,
        put: Put,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Lay a checkpoint out as langgraph's saver does: scalars inline, the rest as blobs."""
        configurable = config["configurable"]
        thread_id = str(configurable["thread_id"])
        ns = configurable.get("checkpoint_ns", "")
        inline: dict[str, Any] = {}
        blobs: dict[str, Any] = {}
        apart: dict[str, Any] = {}
        for channel, value in checkpoint["channel_values"].items():
            if isinstance(value, _DeltaSnapshot):
                inline[channel], blobs[channel] = True, value
            elif not is_inline(value):
                blobs[channel] = value
            elif encryption.is_on():
                apart[channel] = value
            else:
                inline[channel] = value
        versions = {c: v for c, v in new_versions.items() if c in blobs}
        # Unchanged ones, too: before there was a key they had no blob.
        known = checkpoint["channel_versions"]
        versions |= {channel: known[channel] for channel in apart if channel in known}
        blobs |= apart
        for *key, kind, blob in self._dump_blobs(thread_id, ns, blobs, versions):
            put.blobs[tuple(key)] = kind, blob  # type: ignore[index]
            put.size_bytes += len(blob or b"")
        head = wire.dumps({**checkpoint, "channel_values": inline}).decode()
        about = encryption.dumps_members(
            get_serializable_checkpoint_metadata(config, metadata), dumps_metadata
        ).decode()
        parent = configurable.get("checkpoint_id")
        put.heads[thread_id, ns, checkpoint["id"]] = parent, head, about
        put.size_bytes += len(head) + len(about)
        if thread_id == str(self.lease.thread_id):
            made = Head(checkpoint["id"], parent, head.encode(), about.encode())
            for (_, _, channel, version), (kind, data) in put.blobs.items():
                made.blobs[channel] = version, kind, data or b""
            self._recent.wrote(ns, made, checkpoint["channel_versions"])
        return {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": ns,
                "checkpoint_id": checkpoint["id"],
            }
        }

    def _fill_writes(
        self,
        put: Put,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> None:
        configurable = config["configurable"]
        is_special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        rows = self._dump_writes(
            str(configurable["thread_id"]),
            configurable.get("checkpoint_ns", ""),
            configurable["checkpoint_id"],
            task_id,
            task_path,
            writes,
        )
        own = str(self.lease.thread_id)
        for thread_id, ns, checkpoint_id, task, path, index, channel, kind, blob in rows:
            key = (thread_id, ns, checkpoint_id, task, index)
            put.writes[key] = path, channel, kind, blob, is_special
            put.size_bytes += len(blob)
            if thread_id == own:
                row = task, index, (channel, kind, blob, path)
                self._recent.wrote_tasks(ns, checkpoint_id, [row], replaces=is_special)


# langgraph asks for them at every run, and working them out takes a while.
for _method in (FencedSaver.put_writes, FencedSaver.aput_writes):
    setattr(_method, "__signature__", signature(_method))  # noqa: B010 (a function's own attribute)
