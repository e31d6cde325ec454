"""Server-sent events as bytes (streaming-v1.md, section 3), and the batches that carry them.

A frame is one event as the client reads it. A batch is a header and whole frames; it travels
through PubSub and lies in `run_event` unchanged, so that nothing is parsed on the way.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

END_OF_FRAME = b"\r\n\r\n"
HEARTBEAT = b": heartbeat\r\n\r\n"
TOO_SLOW = b": dropped: this client reads too slowly\r\n\r\n"
HEADER = struct.Struct(">c16sQQII")
PIECE = struct.Struct(">QQ")
LARGEST_MESSAGE_BYTES = 1024 * 1024
"""Redis cuts a subscriber off for whom 32 MiB wait: one large state must not do that alone."""
EVENT_ID = re.compile(r"(\d{1,18})-(\d{1,10})")


class Kind(StrEnum):
    """What a batch brings."""

    EVENTS = "E"
    END = "Z"
    """The run's row is terminal; frames are its error event or none."""
    STATE = "S"
    """The thread's state was updated outside a run."""
    PIECE = "P"
    """A part of a message too large to be sent at once: where it begins, of how many, its bytes."""
    ANSWERED = "A"
    """On its way, an END without frames: its bytes are what who waits for the run is answered."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames of one run in order, numbered from `first_seq`."""

    kind: Kind
    run_id: UUID
    lease_token: int
    """The fence: batches of a worker with a lower one are refused."""
    started_ms: int
    """When the run first started: with the number of the frame, its id."""
    first_seq: int
    count: int
    frames: bytes
    answer: bytes = b""
    """Of an END without frames, what `wait` answers; empty where that is to be read from Postgres.
    """

    @property
    def next_seq(self) -> int:
        """The number of the frame after the last."""
        return self.first_seq + self.count


LARGEST_JOINED_BYTES = 64 * 1024


def join(batch: Batch, other: Batch) -> Batch | None:
    """One batch of two; None where the other is not what follows, or both would be too large."""
    follows = (
        batch.kind is Kind.EVENTS
        and other.kind is Kind.EVENTS
        and other.run_id == batch.run_id
        and other.lease_token == batch.lease_token
        and other.started_ms == batch.started_ms
        and other.first_seq == batch.next_seq
    )
    if not follows or len(batch.frames) + len(other.frames) > LARGEST_JOINED_BYTES:
        return None
    return replace(batch, count=batch.count + other.count, frames=batch.frames + other.frames)


Chosen = dict[frozenset[str] | None, bytes]
"""What readers with these modes get of one batch: the same bytes for all."""
ANNOUNCED = 2**62
"""The token of an end that no worker announces: above that of any worker."""


def make_end(run_id: UUID, frame: bytes = b"") -> Batch:
    """The end of a run that no worker tells of: its number is not known, nor that of its frame."""
    return Batch(Kind.END, run_id, ANNOUNCED, 0, 0, 1 if frame else 0, frame)


@dataclass(frozen=True, slots=True, order=True)
class EventId:
    """`<unix ms>-<n>`, as clients send it back in Last-Event-ID."""

    milliseconds: int
    number: int

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.number}"


def pack(batch: Batch) -> bytes:
    """Make the message of a batch."""
    kind, payload = (Kind.ANSWERED, batch.answer) if batch.answer else (batch.kind, batch.frames)
    return (
        HEADER.pack(
            kind.encode(),
            batch.run_id.bytes,
            batch.lease_token,
            batch.started_ms,
            batch.first_seq,
            batch.count,
        )
        + payload
    )


def pack_pieces(batch: Batch) -> Iterator[bytes]:
    """Make the messages of a batch: one, or as many as keep each small. `Pieces` joins them."""
    whole = pack(batch)
    if len(whole) <= LARGEST_MESSAGE_BYTES:
        yield whole
        return
    for start in range(0, len(whole), LARGEST_MESSAGE_BYTES):
        part = PIECE.pack(start, len(whole)) + whole[start : start + LARGEST_MESSAGE_BYTES]
        yield pack(replace(batch, kind=Kind.PIECE, frames=part))


class Pieces:
    """Joins the pieces of the messages of one channel."""

    def __init__(self) -> None:
        self._begun: dict[tuple[UUID, int], bytearray] = {}

    def add(self, piece: Batch) -> Batch | None:
        """Take a piece; the batch that it completes. A message that lost one never comes."""
        start, whole_bytes = PIECE.unpack_from(piece.frames)
        key = piece.run_id, piece.lease_token
        begun = self._begun.setdefault(key, bytearray())
        if start == 0:
            begun.clear()
        if start == len(begun):
            begun += memoryview(piece.frames)[PIECE.size :]
        elif start > len(begun):
            del self._begun[key]
            return None
        if len(begun) < whole_bytes:
            return None
        del self._begun[key]
        return unpack(bytes(begun))


def unpack(message: bytes) -> Batch:
    """Read a message.

    Raises:
        ValueError: not one of ours.
    """
    if len(message) < HEADER.size:
        raise ValueError("too short for a batch")
    name, run_id, token, started_ms, first_seq, count = HEADER.unpack_from(message)
    kind, frames, answer = Kind(name.decode()), message[HEADER.size :], b""
    if kind is Kind.ANSWERED:
        kind, frames, answer = Kind.END, b"", frames
    return Batch(kind, UUID(bytes=run_id), token, started_ms, first_seq, count, frames, answer)


def make_frame(event: str, data: bytes, event_id: EventId | None = None) -> bytes:
    """Frame one event; `data` is JSON, which has no raw line break."""
    if event_id is None:
        return b"event: %b\r\ndata: %b\r\n\r\n" % (one_line(event), data)
    return b"event: %b\r\ndata: %b\r\nid: %b\r\n\r\n" % (
        one_line(event),
        data,
        str(event_id).encode(),
    )


def one_line(name: str) -> bytes:
    """An event's name comes from node names, which are the user's: no line break gets through."""
    return name.replace("\r", " ").replace("\n", " ").encode(errors="replace")


def split(frames: bytes) -> list[bytes]:
    """Cut frames apart; each keeps its end."""
    return [frame + END_OF_FRAME for frame in frames.split(END_OF_FRAME)[:-1]]


def base_name(frame: bytes) -> str:
    """The event's name without `|namespace` and without `/part`: what stream_mode filters by."""
    line, _, _ = frame.partition(b"\r\n")
    name = line.removeprefix(b"event: ").partition(b"|")[0]
    return name.partition(b"/")[0].decode()


def add_id(frame: bytes, event_id: EventId) -> bytes:
    """Give a frame its id, unless it has one."""
    if b"\r\nid: " in frame:
        return frame
    return frame.removesuffix(END_OF_FRAME) + b"\r\nid: %b\r\n\r\n" % str(event_id).encode()


def select(batch: Batch, from_seq: int, modes: frozenset[str] | None, *, with_ids: bool) -> bytes:
    """Take the frames of a batch from one number on, of some modes only, with ids added.

    The common client wants everything as it is, and gets the bytes untouched.
    """
    if from_seq <= batch.first_seq and modes is None and not with_ids:
        return batch.frames
    chosen = []
    for number, frame in enumerate(split(batch.frames), batch.first_seq):
        if number < from_seq or (modes is not None and base_name(frame) not in modes):
            continue
        chosen.append(add_id(frame, EventId(batch.started_ms, number)) if with_ids else frame)
    return b"".join(chosen)


def parse_event_id(text: str) -> EventId | None:
    """Read a Last-Event-ID; None when it is not one of ours."""
    found = EVENT_ID.fullmatch(text)
    return EventId(int(found[1]), int(found[2])) if found else None
