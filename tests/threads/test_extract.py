"""Paths into threads."""

from typing import Any

import pytest

from greenroom.threads.extract import follow, parse_path

DATA: dict[str, Any] = {
    "values": {"log": ["a", {"b": [1, 2]}], "s": "text", "n": None, "0": "zero"},
    "metadata": {"a": {"b c": 7}},
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("values.log[0]", "a"),
        ("values.log[-1].b[1]", 2),
        ("values.log[1].b[-2]", 1),
        ("values.log[2]", None),
        ("values.log[-3]", None),
        ("values.s[0]", None),
        ("values.s.x", None),
        ("values.n.x", None),
        ("values.0", "zero"),
        ("values[0]", None),
        ("metadata.a.b c", 7),
        ("metadata", {"a": {"b c": 7}}),
        ("interrupts.x", None),
        ("values.log[999999999]", None),
    ],
)
def test_a_path_leads_to_its_value_or_to_none(path: str, expected: Any) -> None:
    """Whatever lies on the way."""
    assert follow(parse_path(path), DATA) == expected


@pytest.mark.parametrize(
    "path", ["", "thread_id", "bogus.path", "valuesx.a", ".values", "[0]", "x" * 100_000]
)
def test_a_path_must_begin_at_a_field_that_holds_data(path: str) -> None:
    """The sentence lists them."""
    with pytest.raises(ValueError, match="must start with one of: config, interrupts, metadata"):
        parse_path(path)


@pytest.mark.parametrize(
    "path",
    ["values.", "values..a", "values[", "values[]", "values[x]", "values.a]", "values[9999999999]"],
)
def test_a_path_is_made_of_keys_and_indexes(path: str) -> None:
    """Nothing else is guessed."""
    with pytest.raises(ValueError, match="must be made of"):
        parse_path(path)
