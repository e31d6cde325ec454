"""What graphs produce becomes JSON, whatever it is."""

import enum
import json
import uuid
from collections import deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langgraph.types import Command, Interrupt, Send
from pydantic import BaseModel
from pydantic.v1 import BaseModel as OldModel

from greenroom import wire
from greenroom.graphs import encoding
from greenroom.graphs.encoding import encode_json


class Model(BaseModel):
    number: int
    inner: Any = None


class Old(OldModel):
    number: int


@dataclass
class Data:
    number: int
    inner: Any = None


class Colour(enum.Enum):
    RED = "red"


Pair = namedtuple("Pair", "left right")


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


class FailingModel(BaseModel):
    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError("no")


class Numbers:
    """Stands for numpy's arrays, which may not be installed."""

    __module__ = "numpy"

    def tolist(self) -> list[int]:
        return [1, 2]


def decoded(value: Any) -> Any:
    return json.loads(encode_json(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            Model(number=1, inner=Model(number=2)),
            {"number": 1, "inner": {"number": 2, "inner": None}},
        ),
        (Model(number=1, inner={Data(1).number}), {"number": 1, "inner": [1]}),
        (Old(number=1), {"number": 1}),
        (Data(1, inner=[Model(number=2)]), {"number": 1, "inner": [{"number": 2, "inner": None}]}),
        (Interrupt(value="v", id="i"), {"value": "v", "id": "i", "response_schema": None}),
        (Send("n", {"a": {1}}), {"node": "n", "arg": {"a": [1]}}),
        (
            Command(goto="n", update={"a": 1}),
            {"graph": None, "update": {"a": 1}, "resume": None, "goto": "n"},
        ),
        ({1}, [1]),
        (frozenset([1]), [1]),
        (deque([1]), [1]),
        (Pair(1, {2}), {"left": 1, "right": [2]}),
        (b"abc", "YWJj"),
        (Colour.RED, "red"),
        (uuid.UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (Decimal("1.10"), "1.10"),
        (PurePosixPath("/a"), "/a"),
        (ValueError("boom"), "ValueError('boom')"),
        (Numbers(), [1, 2]),
        (float("nan"), None),
        (Unprintable(), "<Unprintable>"),
        (2**80, 2**80),
        ("\ud800", "\ufffd"),
        ({1: "a", None: "b", Colour.RED: "c"}, {"1": "a", "null": "b", "red": "c"}),
        ({(1, 2): {3}}, {"(1, 2)": [3]}),
        ({(1, 2): datetime(2026, 1, 2, tzinfo=UTC)}, {"(1, 2)": "2026-01-02T00:00:00+00:00"}),
    ],
)
def test_objects_become_plain_json(value: Any, expected: Any) -> None:
    """Each kind has one form, also inside other containers."""
    assert decoded(value) == expected
    assert decoded({"deep": [value]}) == {"deep": [expected]}


@pytest.mark.parametrize("value", [lambda: None, object(), Model, FailingModel(), print])
def test_anything_else_becomes_its_repr(value: Any) -> None:
    """A run never fails because of what a node returned."""
    assert decoded({"x": value}) == {"x": repr(value)}


def test_a_container_inside_itself_is_cut() -> None:
    """Neither an error nor an endless answer."""
    value: dict[str, Any] = {"a": 1}
    value["self"] = value

    assert decoded(value)["self"]["self"]["a"] == 1


def test_a_message_has_the_fields_that_clients_know() -> None:
    """The order and the keys of the reference (streaming-v1.md, 5.2)."""
    message = AIMessage("hi", id="m", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}])

    assert list(decoded(message).items()) == [
        ("content", "hi"),
        ("additional_kwargs", {}),
        ("response_metadata", {}),
        ("type", "ai"),
        ("name", None),
        ("id", "m"),
        ("tool_calls", [{"name": "f", "args": {"a": 1}, "id": "c", "type": "tool_call"}]),
        ("invalid_tool_calls", []),
        ("usage_metadata", None),
    ]
    assert decoded(HumanMessage("x"))["type"] == "human"
    assert decoded(AIMessageChunk(content="x"))["type"] == "AIMessageChunk"
    assert decoded(ToolMessage("x", tool_call_id="c", artifact={1}))["artifact"] == [1]


def test_classes_made_at_run_time_do_not_pile_up() -> None:
    """A factory may define its models anew for every run."""
    for index in range(encoding.MAX_CACHED_TYPES + 10):
        encode_json(type(f"Made{index}", (), {})())

    assert len(encoding._encoders) <= encoding.MAX_CACHED_TYPES
    assert decoded({1}) == [1]


@pytest.mark.parametrize(
    "value",
    [
        *(2**64, -(2**63) - 1, [10**40], [1, -(2**70)], {"a": 2**65}, {"a": [{"b": 2**80}]}),
        *({"a": "12345678901234567890"}, "see 12345678901234567890", {"a": 1.5, "b": 2**53}),
        *({"a": [-(10**30), 1]}, [[10**19]], "-12345678901234567890", -(10**19), 10**19),
    ],
)
def test_what_a_jsonb_holds_comes_back_as_it_was(value: Any) -> None:
    """Integers of any size stay integers. Postgres writes JSONB with the blanks of json.dumps."""
    found = wire.loads_jsonb(json.dumps(value).encode())
    assert repr(found) == repr(value)
