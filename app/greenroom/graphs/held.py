"""Checkpoints that wait a moment for the end of their run, to be committed with it.

A short run is over before its first checkpoint would be on the disk. One transaction for all of it
spares the commits before, and the thread that makes them.
"""

import base64
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from greenroom import wire
from greenroom.graphs.group_commit import CheckpointStore, Put
from greenroom.queue.life import Checkpoints

LARGEST_BYTES = 64 * 1024
"""What a run holds at most: large ones travel better in binary, as groups do."""
HEAD = ("thread_id", "ns", "id", "parent", "checkpoint", "metadata")
BLOB = ("thread_id", "ns", "channel", "version", "type", "blob")
WRITE = ("thread_id", "ns", "id", "task", "idx", "path", "channel", "type", "blob")


class Held:
    """The puts of one run that nobody has been given to write yet, in their order."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self._gate = threading.Lock()
        self._puts: list[Put] = []
        self._bytes = 0

    @property
    def count(self) -> int:
        """How many are held, the last ones of their run."""
        return len(self._puts)

    def add(self, put: Put) -> None:
        """Hold a put for a moment at most (greenroom.graphs.later); from any thread."""
        with self._gate:
            is_first = not self._puts
            self._puts.append(put)
            self._bytes += put.size_bytes
            is_full = self._bytes > LARGEST_BYTES
        if is_full:
            self.release()
        elif is_first:
            self.store.later.call(self.release)

    def release(self) -> None:
        """Have what is held written now, in a group with others."""
        # Under the gate: another thread's next ones must not overtake these.
        with self._gate:
            for put in self._puts:
                self.store.submit(put)
            self._puts, self._bytes = [], 0

    def take(self) -> list[Put]:
        """Take over what is held: the caller writes it."""
        with self._gate:
            puts, self._puts, self._bytes = self._puts, [], 0
        return puts


def as_rows(puts: Sequence[Put]) -> Checkpoints | None:
    """Puts as the end of a run takes them; None when it cannot: some replace what is written."""
    blobs: dict[Any, Sequence[Any]] = {}
    heads: dict[Any, Sequence[Any]] = {}
    writes: dict[Any, Sequence[Any]] = {}
    for put in puts:
        for key, (kind, blob) in put.blobs.items():
            blobs[key] = kind, encoded(blob)
        for head, (parent, checkpoint, metadata) in put.heads.items():
            heads[head] = parent, orjson.Fragment(checkpoint), orjson.Fragment(metadata)
        for write, (path, channel, kind, written, is_special) in put.writes.items():
            if is_special:
                return None
            writes.setdefault(write, (path, channel, kind, encoded(written)))
    return Checkpoints(rows(HEAD, heads), rows(BLOB, blobs), rows(WRITE, writes))


def rows(names: Sequence[str], found: Mapping[Any, Sequence[Any]]) -> bytes:
    """A JSON array of objects, for `json_to_recordset`."""
    return wire.dumps([dict(zip(names, (*key, *row), strict=True)) for key, row in found.items()])


def encoded(blob: bytes | None) -> str | None:
    """Bytes as JSON can hold them."""
    return None if blob is None else base64.b64encode(blob).decode()
