"""Frames and batches: what travels is what was written."""

from dataclasses import replace
from uuid import uuid4

import pytest

from greenroom.streaming.follow import read_modes, read_position
from greenroom.streaming.frames import (
    LARGEST_JOINED_BYTES,
    Batch,
    EventId,
    Kind,
    Pieces,
    join,
    make_frame,
    pack,
    pack_pieces,
    parse_event_id,
    select,
    split,
    unpack,
)

FRAMES = [
    make_frame("metadata", b'{"run_id":1}'),
    make_frame("updates|child:1", b"{}"),
    make_frame("messages/partial", b"[]"),
]


def batch(first_seq: int = 7) -> Batch:
    """Three frames of one run."""
    return Batch(Kind.EVENTS, uuid4(), 3, 1_700_000_000_000, first_seq, 3, b"".join(FRAMES))


def test_a_batch_survives_the_journey() -> None:
    """Header and bytes come out as they went in."""
    sent = batch()
    assert unpack(pack(sent)) == sent


def test_an_end_brings_its_answer_apart_from_its_frames() -> None:
    """Who streams the run sees an end without frames; who waits for it has the answer."""
    sent = Batch(Kind.END, uuid4(), 3, 1_700_000_000_000, 8, 0, b"", b'{"text":"hi"}')
    assert unpack(pack(sent)) == sent
    assert unpack(pack(replace(sent, answer=b""))) == replace(sent, answer=b"")


def test_a_foreign_message_is_refused() -> None:
    """Whatever else somebody publishes on our channel is no batch."""
    with pytest.raises(ValueError, match="too short"):
        unpack(b"hello")


def test_an_unfiltered_batch_is_passed_on_untouched() -> None:
    """The common client costs no parsing."""
    sent = batch()
    assert select(sent, 7, None, with_ids=False) is sent.frames


@pytest.mark.parametrize(
    ("modes", "expected"),
    [(["updates"], [1]), (["messages-tuple"], [2]), (["messages"], [2]), (["values"], [])],
)
def test_modes_choose_frames_by_their_base_name(modes: list[str], expected: list[int]) -> None:
    """Namespaces and parts of a name do not matter."""
    chosen = select(batch(), 0, read_modes(modes), with_ids=False)
    assert split(chosen) == [FRAMES[number] for number in expected]


def test_a_client_gets_what_it_has_not_seen_with_ids_added() -> None:
    """Ids are the start of the run and the number of the frame."""
    (last,) = split(select(batch(), 9, None, with_ids=True))
    assert last == b"event: messages/partial\r\ndata: []\r\nid: 1700000000000-9\r\n\r\n"


def test_a_node_cannot_break_out_of_its_events_name() -> None:
    """Names are the user's: a line break in one starts no new field."""
    frame = make_frame("updates|evil\r\ndata: x\n\n", b"{}")
    assert frame.count(b"\r\n") == 3


@pytest.mark.parametrize(
    ("text", "position"), [(None, None), ("-1", 0), ("0", 0), ("17-4", 5), ("-", 0)]
)
def test_a_last_event_id_names_the_first_unseen_frame(
    text: str | None, position: int | None
) -> None:
    """The table of streaming-v1.md, section 6."""
    assert read_position(text) == position


@pytest.mark.parametrize("text", ["zzz", "1-", "-5", "1-2-3", "9" * 40 + "-1"])
def test_a_malformed_event_id_is_none_of_ours(text: str) -> None:
    """It is never guessed at."""
    assert parse_event_id(text) is None
    with pytest.raises(ValueError, match=text):
        read_position(text)


def test_event_ids_order_by_time_then_number() -> None:
    """So that ids of one run after another grow on a thread's stream."""
    assert EventId(1, 9) < EventId(2, 0) < EventId(2, 1)


def test_a_large_batch_travels_in_pieces_and_arrives_whole() -> None:
    """A piece that comes twice does no harm; one that is lost loses its batch, not the next."""
    large = Batch(Kind.EVENTS, uuid4(), 3, 1, 7, 1, make_frame("custom", b"x" * 3_000_000))
    small = batch()
    assert list(pack_pieces(small)) == [pack(small)]
    messages = [unpack(message) for message in pack_pieces(large)]
    assert [message.kind for message in messages] == [Kind.PIECE] * 3
    first, second, third = messages
    pieces = Pieces()
    assert [pieces.add(one) for one in (first, second, second, third)] == [None] * 3 + [large]
    assert [pieces.add(one) for one in (first, third)] == [None, None]
    assert [pieces.add(one) for one in messages] == [None, None, large]


def test_batches_are_joined_where_one_follows_the_other() -> None:
    """Never over a gap, another run, another attempt, or an end."""
    first = batch(7)
    second = replace(first, first_seq=first.next_seq)
    joined = join(first, second)
    assert joined is not None
    assert (joined.first_seq, joined.next_seq) == (7, second.next_seq)
    assert joined.frames == first.frames + second.frames
    large = replace(second, frames=b"x" * LARGEST_JOINED_BYTES)
    for other in (
        first,
        replace(second, first_seq=second.first_seq + 1),
        replace(second, run_id=uuid4()),
        replace(second, lease_token=second.lease_token + 1),
        replace(second, kind=Kind.END),
        large,
    ):
        assert join(first, other) is None
