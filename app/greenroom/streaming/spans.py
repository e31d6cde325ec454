"""Events of generation 2 as bytes (streaming-v2.md, 1.2), and the spans that carry them.

A span is a run of events with the same key: what filters look at lies beside the frames, so that
nobody parses them on the way. Spans travel as the frames of a Batch and lie in `thread_event`.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from greenroom import wire
from greenroom.streaming.frames import END_OF_FRAME, Batch, one_line

HEAD = struct.Struct(">HII")
LARGEST_KEY_BYTES = 2**16 - 1
LARGEST_VERDICTS = 4096
"""Keys whose verdict a filter remembers: graphs may make up namespaces without end."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event, framed as its readers get it."""

    key: bytes
    frame: bytes
    is_numbered: bool = True
    """False for a checkpoint: it has no number, and comes with the event that follows it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Frames of events with the same key, numbered from `first_seq`."""

    key: bytes
    first_seq: int
    count: int
    """0 for unnumbered events, which belong to the one with `first_seq`."""
    frames: bytes

    @property
    def next_seq(self) -> int:
        """The number after the last."""
        return self.first_seq + self.count

    def after(self, from_seq: int) -> bytes:
        """The frames from one number on."""
        if from_seq <= self.first_seq:
            return self.frames
        frames = self.frames.split(END_OF_FRAME)[from_seq - self.first_seq :]
        return END_OF_FRAME.join(frames)


def make_key(method: str, namespace: Iterable[str], name: str = "") -> bytes:
    """What a filter looks at: the method, the namespace, and of a custom event its name."""
    key = wire.dumps([method, list(namespace), name])
    # Longer ones are nobody's to ask for.
    return key if len(key) <= LARGEST_KEY_BYTES else wire.dumps([method, list(namespace)[:1], ""])


def read_key(key: bytes) -> tuple[str, list[str], str]:
    """Method, namespace, name."""
    method, namespace, name = wire.loads(key)
    return method, namespace, name


def make_event_frame(
    method: str, data: bytes, *, namespace: bytes, milliseconds: int, event_id: str, seq: int | None
) -> bytes:
    """Frame one event.

    Args:
        data: JSON, and what follows it within `params`.
        namespace: JSON.
        seq: None for an event without a number.
    """
    number = b"" if seq is None else b'"seq":%d,' % seq
    last = b"" if seq is None else b"id: %d\r\n" % seq
    return (
        b'event: %b\r\ndata: {"type":"event","event_id":%b,%b"method":"%b",'
        b'"params":{"namespace":%b,"timestamp":%d,"data":%b}}\r\n%b\r\n'
    ) % (
        one_line(method),
        wire.dumps(event_id),
        number,
        method.encode(),
        namespace,
        milliseconds,
        data,
        last,
    )


def data_of(frame: bytes) -> bytes:
    """The JSON of one frame, as a WebSocket sends it."""
    return frame.partition(b"\r\ndata: ")[2].partition(b"\r\n")[0]


def number_of(frame: bytes) -> int:
    """The `seq` of one frame; 0 of an event without."""
    return int(frame.rpartition(b"\r\nid: ")[2] or 0) if b"\r\nid: " in frame else 0


def pack_spans(events: Iterable[Event]) -> bytes:
    """Join events in order; those with one key become a span."""
    packed: list[bytes] = []
    key, count = b"", 0
    frames: list[bytes] = []
    for event in events:
        if frames and (event.key != key or not event.is_numbered or not count):
            packed.append(_pack(key, count, frames))
            count, frames = 0, []
        key = event.key
        count += event.is_numbered
        frames.append(event.frame)
    if frames:
        packed.append(_pack(key, count, frames))
    return b"".join(packed)


def _pack(key: bytes, count: int, frames: list[bytes]) -> bytes:
    joined = b"".join(frames)
    return HEAD.pack(len(key), count, len(joined)) + key + joined


def read_spans(batch: Batch) -> Iterator[Span]:
    """Take a batch apart."""
    packed, position, seq = batch.frames, 0, batch.first_seq
    while position < len(packed):
        key_bytes, count, frames_bytes = HEAD.unpack_from(packed, position)
        start = position + HEAD.size + key_bytes
        position = start + frames_bytes
        yield Span(packed[start - key_bytes : start], seq, count, packed[start:position])
        seq += count


def select_frames(batch: Batch, from_seq: int, wants: Callable[[bytes], bool]) -> Iterator[bytes]:
    """Take the frames of a batch from one number on, whose key a filter wants."""
    for span in read_spans(batch):
        # A checkpoint comes with the event after it.
        if max(span.next_seq, span.first_seq + 1) > from_seq and wants(span.key):
            yield span.after(from_seq)


CHANNELS = (
    "values",
    "updates",
    "messages",
    "tools",
    "lifecycle",
    "input",
    "tasks",
    "custom",
    "checkpoints",
)
METHODS = {"input": "input.requested"}
"""Of channels whose events have another name."""
NAMED = "custom:"


def is_channel(name: Any) -> bool:
    """Whether a client may ask for it."""
    if not isinstance(name, str):
        return False
    return name in CHANNELS or (name.startswith(NAMED) and len(name) > len(NAMED))


class Filter:
    """What one subscription wants to see (streaming-v2.md, 1.1)."""

    def __init__(
        self,
        channels: Iterable[str],
        namespaces: list[list[str]] | None = None,
        depth: int | None = None,
    ) -> None:
        channels = list(channels)
        self.methods = frozenset(METHODS.get(name, name) for name in channels)
        self.names = frozenset(
            name.removeprefix(NAMED) for name in channels if name.startswith(NAMED)
        )
        self.namespaces = namespaces or None
        self.depth = depth
        self._verdicts: dict[bytes, bool] = {}

    def wants(self, key: bytes) -> bool:
        """Whether events with this key are for the subscription."""
        verdict = self._verdicts.get(key)
        if verdict is None:
            if len(self._verdicts) >= LARGEST_VERDICTS:
                self._verdicts.clear()
            verdict = self._verdicts[key] = self._judge(*read_key(key))
        return verdict

    def _judge(self, method: str, namespace: list[str], name: str) -> bool:
        if method not in self.methods and not (method == "custom" and name in self.names):
            return False
        if self.namespaces is None:
            return True
        return any(self._is_below(prefix, namespace) for prefix in self.namespaces)

    def _is_below(self, prefix: list[str], namespace: list[str]) -> bool:
        if len(prefix) > len(namespace) or not all(map(is_segment, prefix, namespace)):
            return False
        return self.depth is None or len(namespace) - len(prefix) <= self.depth


def is_segment(wanted: str, segment: str) -> bool:
    """A node's name alone stands for each of its calls."""
    return segment == wanted or (":" not in wanted and segment.startswith(f"{wanted}:"))
