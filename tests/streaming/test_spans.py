"""Spans: what filters look at, beside the bytes that clients read."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.streaming.frames import Batch, Kind
from greenroom.streaming.spans import (
    Event,
    Filter,
    is_channel,
    make_event_frame,
    make_key,
    pack_spans,
    select_frames,
)


def event(method: str, seq: int | None, namespace: tuple[str, ...] = (), name: str = "") -> Event:
    frame = make_event_frame(
        method, b"{}", namespace=b"[]", milliseconds=1, event_id=f"{method}-{seq}", seq=seq
    )
    return Event(make_key(method, namespace, name), frame, seq is not None)


def batch_of(events: list[Event], first_seq: int) -> Batch:
    count = sum(one.is_numbered for one in events)
    return Batch(Kind.EVENTS, UUID(int=1), 1, 1, first_seq, count, pack_spans(events))


@given(
    st.lists(st.sampled_from(["values", "messages", "checkpoints"]), max_size=30),
    st.integers(1, 40),
)
def test_every_reader_gets_what_comes_from_its_number_on(methods: list[str], from_seq: int) -> None:
    """Whatever is mixed: each event once, in order, a checkpoint with the event after it."""
    events, due, seq = [], [], 5
    # A checkpoint is never last: it comes with its values.
    for method in [*methods, "values"]:
        is_numbered = method != "checkpoints"
        one = event(method, seq if is_numbered else None)
        events.append(one)
        if seq >= from_seq:
            due.append(one.frame)
        seq += is_numbered
    frames = select_frames(batch_of(events, 5), from_seq, lambda _key: True)
    assert b"".join(frames) == b"".join(due)


@pytest.mark.parametrize(
    ("wanted", "method", "namespace", "name", "verdict"),
    [
        ({"channels": ["values"]}, "values", ["a:1", "b:2"], "", True),
        ({"channels": ["values"]}, "messages", [], "", False),
        ({"channels": ["input"]}, "input.requested", [], "", True),
        ({"channels": ["custom"]}, "custom", [], "x", True),
        ({"channels": ["custom:x"]}, "custom", [], "x", True),
        ({"channels": ["custom:x"]}, "custom", [], "y", False),
        ({"channels": ["values"], "namespaces": [["a"]]}, "values", ["a:1"], "", True),
        ({"channels": ["values"], "namespaces": [["a"]]}, "values", ["ab:1"], "", False),
        ({"channels": ["values"], "namespaces": [["a:1"]]}, "values", ["a:12"], "", False),
        ({"channels": ["values"], "namespaces": [["a"]]}, "values", [], "", False),
        ({"channels": ["values"], "namespaces": [["a"], ["b"]]}, "values", ["b:1"], "", True),
        ({"channels": ["values"], "namespaces": [[]], "depth": 0}, "values", ["a:1"], "", False),
        ({"channels": ["values"], "namespaces": [[]], "depth": 1}, "values", ["a:1"], "", True),
        ({"channels": ["values"], "depth": 0}, "values", ["a:1", "b:2"], "", True),
    ],
)
def test_filters(
    wanted: dict[str, object], method: str, namespace: list[str], name: str, *, verdict: bool
) -> None:
    """Channels, names, prefixes of namespaces, and how far below them."""
    assert Filter(**wanted).wants(make_key(method, namespace, name)) is verdict  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["debug", "custom:", "", None, 1, "input.requested"])
def test_what_is_no_channel(name: object) -> None:
    """Names that a subscription is refused with."""
    assert not is_channel(name)
