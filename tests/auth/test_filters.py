"""What filters mean to Postgres, and which are refused."""

import json
from typing import Any

import pytest
from sqlalchemy import text

from greenroom.auth.caller import Caller
from greenroom.auth.filters import UnknownFilterError, compile_filter
from greenroom.database.engine import Database

RECORD = {
    "owner": "ann",
    "level": 3,
    "open": True,
    "gone": None,
    "tags": ["a", "b", 3],
    "org": {"id": "x", "roles": ["r"]},
    'odd"key\\': "v",
    "$cash": 1,
}


def matches(database: Database, given: dict[str, Any], record: Any = RECORD) -> bool:
    """Whether Postgres finds the record with the filter."""
    predicate = compile_filter(given)
    scope = Caller(filters={"r": predicate} if predicate else {}).scope("r")
    with database.statement() as connection:
        found = connection.execute(
            text(
                "SELECT (CAST(:scope AS text) IS NULL"
                " OR CAST(:record AS jsonb) @@ CAST(:scope AS jsonpath))"
            ),
            {"scope": scope, "record": json.dumps(record)},
        ).scalar_one()
    return found is True


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"owner": "ann"},
        {"owner": {"$eq": "ann"}},
        {"owner": "ann", "level": 3},
        {"level": 3.0},
        {"open": True},
        {"gone": None},
        {"tags": {"$contains": "a"}},
        {"tags": {"$contains": ["b", "a"]}},
        {"tags": {"$contains": 3}},
        {"tags": ["b"]},
        {"org": {"id": "x"}},
        {"org": {"roles": ["r"]}},
        {"org": {"roles": {"$contains": "r"}}},
        {'odd"key\\': "v"},
        {"$or": [{"missing": 1}, {"owner": "ann"}]},
        {"$or": [{"owner": "ann"}, {"missing": 1}]},
        {"$and": [{"owner": "ann"}, {"level": 3}]},
        {"$and": [{"$or": [{"owner": "bob"}, {"owner": "ann"}]}, {"open": True}]},
    ],
)
def test_what_matches(database: Database, given: dict[str, Any]) -> None:
    """Members are joined by and; operators mean what the SDK says."""
    assert matches(database, given)


@pytest.mark.parametrize(
    "given",
    [
        {"owner": "bob"},
        {"owner": "an"},
        {"owner": ""},
        {"owner": None},
        {"missing": "ann"},
        {"missing": None},
        {"owner": "ann", "level": 4},
        {"level": "3"},
        {"open": 1},
        {"tags": "a"},
        {"tags": {"$contains": "c"}},
        {"tags": {"$contains": ["a", "c"]}},
        {"owner": {"$contains": "ann"}},
        {"org": {"id": "y"}},
        {"org": "x"},
        {"$or": [{"owner": "bob"}, {"missing": 1}]},
        {"$and": [{"owner": "ann"}, {"missing": 1}]},
        {"owner": 'ann" || 1 == 1 || "x" == "'},
        {'owner" || 1 == 1 || $."x': "ann"},
    ],
)
def test_what_does_not_match(database: Database, given: dict[str, Any]) -> None:
    """A missing field, another type and quotation marks in a value open nothing."""
    assert not matches(database, given)


@pytest.mark.parametrize(
    "record", [["ann"], "ann", None, {"owner": ["ann"]}, {"owner": {"a": "ann"}}]
)
def test_records_of_another_shape_do_not_match(database: Database, record: Any) -> None:
    """A list that holds the owner is not the owner."""
    assert not matches(database, {"owner": "ann"}, record)


def nested(depth: int) -> dict[str, Any]:
    return {"$and": [nested(depth - 1)]} if depth else {"owner": "ann"}


@pytest.mark.parametrize(
    "given",
    [
        {"owner": {"$ne": "bob"}},
        {"owner": {"$eq": "ann", "$in": ["ann"]}},
        {"owner": {"$regex": ".*"}},
        {"$not": {"owner": "bob"}},
        {"$or": []},
        {"$or": {"owner": "ann"}},
        {"$or": [{}, {"owner": "ann"}]},
        {"$or": ["owner"]},
        {"org": {"$or": [{"id": "x"}]}},
        {"owner": {"$eq": ["ann"]}},
        {"owner": {"$eq": {"a": 1}}},
        {"tags": {"$contains": [["a"]]}},
        {"owner": object()},
        {1: "ann"},
        nested(20),
        {f"k{number}": 1 for number in range(300)},
    ],
)
def test_what_is_not_understood_is_refused(given: dict[Any, Any]) -> None:
    """Never taken for a filter that lets everything through."""
    with pytest.raises(UnknownFilterError):
        compile_filter(given)
