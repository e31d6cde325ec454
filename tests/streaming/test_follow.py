"""What a client of a thread's stream gets, batch by batch."""

from uuid import uuid4

import pytest

from greenroom.streaming.follow import ThreadStream
from greenroom.streaming.frames import Batch, EventId, Kind, make_frame

RUN = uuid4()
FRAMES = b"".join(make_frame("values", b"%d" % number, None) for number in range(4, 8))
EVENTS = Batch(Kind.EVENTS, RUN, 1, 1000, 4, 4, FRAMES)
END = Batch(Kind.END, RUN, 1, 1000, 8, 0, b"")
LATER = Batch(Kind.EVENTS, uuid4(), 1, 2000, 0, 1, make_frame("metadata", b"{}", None))


def ids_of(frames: bytes) -> list[str]:
    """The ids, in order."""
    lines = frames.decode().splitlines()
    return [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]


@pytest.mark.parametrize("first_unseen", range(4, 10))
def test_a_client_that_left_within_a_batch_gets_the_rest_of_it(first_unseen: int) -> None:
    """Whatever it has seen: nothing twice, nothing left out."""
    stream = ThreadStream(frozenset({"run_modes"}), EventId(1000, first_unseen))
    told = [one for batch in (EVENTS, END, LATER) for one in ids_of(stream.accept(batch))]
    expected = [f"1000-{number}" for number in range(first_unseen, 9)]
    assert told == [*expected, "2000-0"]


def test_a_batch_that_comes_again_is_left_out() -> None:
    """The replay and the live stream overlap."""
    stream = ThreadStream(frozenset({"run_modes"}))
    assert len(ids_of(stream.accept(EVENTS))) == 4
    assert stream.accept(EVENTS) == b""
    assert len(ids_of(stream.accept(END))) == 1
    assert stream.accept(END) == b""
