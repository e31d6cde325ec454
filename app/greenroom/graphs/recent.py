"""The newest checkpoint of each namespace as a run has read or written it.

While a run holds its lease nobody else writes its thread, so what it wrote last is what a read from
Postgres would bring. Kept as the bytes that went there: a reader decodes them anew, as from a row.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from greenroom import wire

LARGEST = 64
"""Namespaces that are remembered; those of further subgraphs are read from Postgres."""

Blob = tuple[str, str, bytes]
"""Version, type, bytes."""
Write = tuple[str, str, bytes, str]
"""Channel, type, bytes, task path."""
WriteRow = tuple[str, int, Write]
"""Task id, index, and the write."""


@dataclass(slots=True)
class Head:
    """The newest checkpoint of a namespace."""

    checkpoint_id: str
    parent_id: str | None
    checkpoint: bytes
    """JSON, with the values that live inside it."""
    metadata: bytes
    blobs: dict[str, Blob] = field(default_factory=dict)
    """By channel."""
    writes: dict[tuple[str, int], Write] = field(default_factory=dict)
    """By task id and index."""


class Recent:
    """What one run knows about its thread."""

    def __init__(self, *, is_blank: bool) -> None:
        self.is_blank = is_blank
        """The thread had no checkpoint when the run was claimed."""
        self._heads: dict[str, Head] = {}
        self._seen: set[str] = set()
        """Namespaces that are known to hold something, remembered or not."""
        self._empty: set[str] = set()
        """Namespaces that are known to hold nothing."""
        self._early: dict[tuple[str, str], dict[tuple[str, int], Write]] = {}
        """Writes to checkpoints that are still to come: langgraph puts those in the background."""

    def is_empty(self, ns: str) -> bool:
        """Whether a namespace certainly has no checkpoint."""
        return ns not in self._seen and (self.is_blank or ns in self._empty)

    def find(self, ns: str, checkpoint_id: str | None) -> Head | None:
        """The newest checkpoint, if it is known and the one that is asked for."""
        head = self._heads.get(ns)
        if head is None or checkpoint_id not in {None, head.checkpoint_id}:
            return None
        return head

    def wrote(self, ns: str, head: Head, versions: Mapping[str, Any]) -> None:
        """A checkpoint was put after the one that is known; `head.blobs` are its new ones.

        Args:
            versions: of every channel of the checkpoint.
        """
        before = self._heads.pop(ns, None)
        is_first = self.is_empty(ns) and head.parent_id is None
        self._seen.add(ns)
        early = self._early.pop((ns, head.checkpoint_id), None)
        if not is_first and (before is None or before.checkpoint_id != head.parent_id):
            return
        if early is not None:
            head.writes = early
        if before is not None:
            for channel, blob in before.blobs.items():
                if versions.get(channel) == blob[0]:
                    head.blobs.setdefault(channel, blob)
        self._remember(ns, head)

    def wrote_tasks(
        self, ns: str, checkpoint_id: str, rows: Iterable[WriteRow], *, replaces: bool
    ) -> None:
        """Tasks wrote to a checkpoint; ordinary writes that come again change nothing."""
        head = self._heads.get(ns)
        if head is not None and head.checkpoint_id == checkpoint_id:
            writes = head.writes
        elif (head is not None and head.checkpoint_id < checkpoint_id) or self.is_empty(ns):
            writes = self._early.setdefault((ns, checkpoint_id), {})
        else:
            return
        for task_id, index, write in rows:
            if replaces:
                writes[task_id, index] = write
            else:
                writes.setdefault((task_id, index), write)

    def read(self, ns: str, row: Mapping[str, Any] | None) -> None:
        """Postgres told the newest checkpoint of a namespace."""
        if row is None:
            self._empty.add(ns)
            return
        self._seen.add(ns)
        checkpoint = row["checkpoint"]
        versions = checkpoint["channel_versions"]
        head = Head(
            row["checkpoint_id"],
            row["parent_checkpoint_id"],
            wire.dumps(checkpoint),
            wire.dumps(row["metadata"]),
        )
        for channel, kind, blob in row["channel_values"] or ():
            name = channel.decode()
            head.blobs[name] = versions[name], kind.decode(), blob
        for task, channel, kind, blob, path, index in row["pending_writes"] or ():
            write = channel.decode(), kind.decode(), blob, path.decode()
            head.writes[task.decode(), int(index)] = write
        self._remember(ns, head)

    def forget(self) -> None:
        """Something was removed: ask Postgres from now on."""
        self._seen.update(self._heads, self._empty)
        self._heads.clear()
        self._early.clear()
        self._empty.clear()
        self.is_blank = False

    def _remember(self, ns: str, head: Head) -> None:
        if ns in self._heads or len(self._heads) < LARGEST or not ns:
            self._heads[ns] = head


def as_row(thread_id: str, ns: str, head: Head) -> dict[str, Any]:
    """A head as the row that langgraph's saver decodes."""
    return {
        "thread_id": thread_id,
        "checkpoint_ns": ns,
        "checkpoint_id": head.checkpoint_id,
        "parent_checkpoint_id": head.parent_id,
        "checkpoint": wire.loads(head.checkpoint),
        "metadata": wire.loads(head.metadata),
        "channel_values": [
            (channel.encode(), kind.encode(), blob)
            for channel, (_, kind, blob) in head.blobs.items()
        ],
        "pending_writes": [
            (*(task.encode(), channel.encode(), kind.encode(), blob, path.encode()), b"%d" % index)
            for (task, index), (channel, kind, blob, path) in head.writes.items()
        ],
    }
