"""config.configurable and context follow each other."""

from typing import Any

import pytest

from greenroom.assistants.mirror import mirror, mirror_change
from greenroom.errors import BadRequest, InvalidRequest


@pytest.mark.parametrize(
    ("config", "context", "expected"),
    [
        (None, None, ({}, {})),
        ({"tags": ["t"]}, {}, ({"tags": ["t"]}, {})),
        ({"configurable": {"x": 1}}, None, ({"configurable": {"x": 1}}, {"x": 1})),
        ({"configurable": {}}, {"x": 1}, ({"configurable": {"x": 1}}, {"x": 1})),
        ({"tags": []}, {"x": 1}, ({"tags": [], "configurable": {"x": 1}}, {"x": 1})),
        ({"configurable": None}, {"x": 1}, ({"configurable": {"x": 1}}, {"x": 1})),
    ],
)
def test_the_one_that_is_given_fills_in_the_other(config: Any, context: Any, expected: Any) -> None:
    """The rest of the config stays as it is."""
    assert mirror(config, context) == expected


def test_both_together_contradict_each_other() -> None:
    """Even when they say the same."""
    with pytest.raises(BadRequest):
        mirror({"configurable": {"thread_id": "t"}}, {"x": 1})


def test_configurable_must_be_an_object() -> None:
    """The sentence names the field."""
    with pytest.raises(InvalidRequest, match="configurable"):
        mirror({"configurable": [1]}, None)


def test_the_caller_keeps_its_own_objects() -> None:
    """What is changed later does not change what was given."""
    context: dict[str, Any] = {"x": 1}
    config, kept = mirror(None, context)
    config["configurable"]["y"] = kept["y"] = 2
    assert context == {"x": 1}


@pytest.mark.parametrize(
    ("config", "context", "expected"),
    [
        (None, None, ({"tags": ["t"], "configurable": {"x": 1}}, {"x": 1})),
        ({"recursion_limit": 5}, None, ({"recursion_limit": 5}, {})),
        (None, {"y": 2}, ({"tags": ["t"], "configurable": {"y": 2}}, {"y": 2})),
        (None, {}, ({"tags": ["t"]}, {})),
    ],
)
def test_a_change_replaces_what_it_names_and_the_other_follows(
    config: Any, context: Any, expected: Any
) -> None:
    """A context alone leaves the rest of the stored config."""
    stored = {"tags": ["t"], "configurable": {"x": 1}}
    assert mirror_change(stored, {"x": 1}, config, context) == expected
