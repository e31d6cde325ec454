"""What a client of a thread's stream gets, batch by batch."""

from uuid import uuid4

import pytest

from greenroom.database.engine import Database
from greenroom.streaming.follow import HELD_BYTES, RunStream, ThreadStream, Wanted
from greenroom.streaming.frames import Batch, Chosen, EventId, Kind, make_end, make_frame

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


def names_of(frames: bytes) -> list[str]:
    """The events, in order."""
    lines = frames.decode().splitlines()
    return [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]


def test_the_next_run_waits_for_an_end_that_comes_late() -> None:
    """The end of a run comes from one worker, the beginning of the next from another."""
    stream = ThreadStream(frozenset({"run_modes"}))
    stream.accept(EVENTS)
    assert stream.accept(LATER) == b""
    told = stream.accept(END)
    assert ids_of(told) == ["1000-8", "2000-0"]
    assert b"run_done" in told
    assert stream.open_run_id == LATER.run_id


def test_an_end_that_no_worker_tells_comes_after_what_was_seen() -> None:
    """With its error, once, under ids that go on growing."""
    stream = ThreadStream(frozenset({"run_modes"}))
    stream.accept(EVENTS)
    told = stream.accept(make_end(RUN, make_frame("error", b"{}", None)))
    assert names_of(told) == ["error", "metadata"]
    assert ids_of(told) == ["1000-8", "1000-9"]
    assert stream.accept(END) == b""
    assert stream.open_run_id is None


def test_an_end_that_is_lost_does_not_hold_the_next_runs_for_ever() -> None:
    """Beyond some bytes the client is told what is known."""
    stream = ThreadStream(frozenset({"run_modes"}))
    stream.accept(EVENTS)
    assert stream.accept(LATER) == b""
    frame = make_frame("values", b'"' + b"x" * HELD_BYTES + b'"', None)
    told = stream.accept(Batch(Kind.EVENTS, LATER.run_id, 1, 2000, 1, 1, frame))
    assert ids_of(told) == ["1000-8", "2000-0", "2000-1"]


def test_readers_with_the_same_modes_share_what_a_batch_brings_them(database: Database) -> None:
    """Who wants other modes, or has seen a part of it already, gets that and nothing else."""
    both = EVENTS.frames + make_frame("custom", b"{}")
    batch = Batch(Kind.EVENTS, RUN, 0, 1000, 4, 5, both)
    chosen: Chosen = {}

    def show(modes: str | None, from_seq: int | None = None) -> bytes | None:
        wanted = Wanted(RUN, None if modes is None else frozenset({modes}), from_seq=from_seq)
        return RunStream(database, wanted).show(batch, chosen)

    first = show("values")
    assert first == EVENTS.frames
    assert show("values") is first
    assert show("custom") == make_frame("custom", b"{}")
    assert show(None) is both
    assert show("values", 6) == EVENTS.frames[len(EVENTS.frames) // 2 :]
    assert show("values") is first


def test_what_needs_a_look_at_postgres_is_not_shown_at_once(database: Database) -> None:
    """A gap in a resumable stream, and every end, wait for the reader's own turn."""
    stream = RunStream(database, Wanted(RUN, is_resumable=True, from_seq=2))
    assert stream.show(EVENTS, {}) is None
    assert stream.next_seq == 2
    assert stream.show(END, {}) is None
    assert RunStream(database, Wanted(RUN)).show(END, {}) is None
