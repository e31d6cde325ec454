"""Items: what a put keeps, and how long items live."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from greenroom.errors import BadRequest, InvalidRequest
from greenroom.store import queries, service
from greenroom.store.settings import StoreSettings


def test_an_item_comes_back_as_it_was_put(items: Any, space: list[str]) -> None:
    """Also with text that SQL, LIKE or format strings would take for their own."""
    value = {"%s": ":x {} % _ \\ '", "deep": [{"n": [1, None, 0.5, 10**18]}]}
    items.put([*space, "%_\\", "'"], "{} :key", value)
    item = items.get([*space, "%_\\", "'"], "{} :key")
    assert item["value"] == value
    assert item["namespace"] == [*space, "%_\\", "'"] and item["key"] == "{} :key"


def test_numbers_beyond_64_bits_keep_every_digit(items: Any, space: list[str]) -> None:
    """Graphs may store them; a float in their place would be another number."""
    number = 3**200
    items.put(space, "k", {"n": number})
    query = service.ItemQuery(namespace=".".join(space), key="k")
    found = service.find(items.database, items.settings, query, "k")
    assert str(number) in service.wire.dumps(found).decode()


def test_a_second_put_replaces_the_value_and_keeps_the_creation_time(
    items: Any, space: list[str]
) -> None:
    """The value is not merged; updated_at moves on."""
    items.put(space, "k", {"a": 1})
    first = items.get(space, "k")
    items.put(space, "k", {"b": 2})
    second = items.get(space, "k")
    assert second["value"] == {"b": 2}
    assert second["created_at"] == first["created_at"] < second["updated_at"]


def test_a_missing_item_is_none_and_may_be_deleted(items: Any, space: list[str]) -> None:
    """Deleting is idempotent; an empty key is a key."""
    items.delete(space, "")
    items.put(space, "", {"a": 1})
    assert items.get(space, "")["value"] == {"a": 1}
    items.delete(space, "")
    assert items.get(space, "") is None


@pytest.mark.parametrize(
    ("namespace", "error"),
    [
        ([], BadRequest),
        (["langgraph", "x"], BadRequest),
        ([""], InvalidRequest),
        (["a", "b.c"], InvalidRequest),
        (["a"] * 101, InvalidRequest),
        (["a" * 2001], InvalidRequest),
    ],
)
def test_bad_namespaces_are_refused(items: Any, namespace: list[str], error: type) -> None:
    """http.md, section 6; and what no index entry could hold."""
    with pytest.raises(error):
        items.put(namespace, "k")


@pytest.mark.parametrize("ttl", [0, -1, 2**31, True, "5"])
def test_a_ttl_that_is_no_time_is_refused(items: Any, space: list[str], ttl: Any) -> None:
    """Minutes above nought, within the column."""
    with pytest.raises(ValidationError):
        items.put(space, "k", ttl=ttl)


def test_an_expired_item_is_gone_before_it_is_swept(items: Any, space: list[str]) -> None:
    """For every kind of read; a put in its place makes a new item."""
    items.put(space, "k", {"a": 1}, ttl=5)
    created = items.get(space, "k")["created_at"]
    items.expire(space)
    assert items.get(space, "k") is None
    assert items.search(space) == []
    assert items.namespaces(prefix=space) == []
    items.put(space, "k", {"a": 2})
    assert items.get(space, "k")["created_at"] > created


def test_a_put_decides_anew_how_long_an_item_lives(items: Any, space: list[str]) -> None:
    """Fractions count exactly at first; a read prolongs by whole minutes, never shortens."""
    items.put(space, "k", ttl=0.5)
    minutes, prolonged_by = items.lives(space)["k"]
    assert 0.4 < minutes <= 0.5 and prolonged_by == 1
    items.put(space, "k")
    assert items.lives(space)["k"] == (None, None)


def test_the_configured_ttl_is_for_items_without_one(
    make_items: Callable[..., Any], space: list[str]
) -> None:
    """Absent takes it, null means for good."""
    items = make_items(StoreSettings(default_ttl_minutes=30))
    items.put(space, "default")
    items.put(space, "own", ttl=5)
    items.put(space, "for good", ttl=None)
    lives = {key: ttl for key, (_, ttl) in items.lives(space).items()}
    assert lives == {"default": 30, "own": 5, "for good": None}


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize("asked", [True, False, None])
@pytest.mark.parametrize("how", ["get", "search"])
def test_a_read_prolongs_if_it_is_told_to(
    make_items: Callable[..., Any],
    space: list[str],
    configured: bool,
    asked: bool | None,
    how: str,
) -> None:
    """The request decides, else `store.ttl.refresh_on_read`. Items without a ttl stay without."""
    items = make_items(StoreSettings(refresh_on_read=configured))
    items.put(space, "k", ttl=60)
    items.put(space, "stays")
    items._execute("UPDATE store SET expires_at = expires_at - interval '50 min'", space)
    if how == "get":
        items.get(space, "k", refresh_ttl=asked)
    else:
        assert items.keys(space, refresh_ttl=asked) == "kstays"
    is_prolonged = configured if asked is None else asked
    assert (items.lives(space)["k"][0] > 50) == is_prolonged
    assert items.lives(space)["stays"] == (None, None)


def test_a_search_prolongs_only_what_it_returns(items: Any, space: list[str]) -> None:
    """Not what the limit cut off."""
    for key in "ab":
        items.put(space, key, ttl=60)
    items._execute("UPDATE store SET expires_at = expires_at - interval '50 min'", space)
    assert items.keys(space, limit=1) == "b"
    lives = items.lives(space)
    assert lives["a"][0] < 50 < lives["b"][0]


def test_expired_items_are_deleted_in_batches(items: Any, space: list[str]) -> None:
    """At most the limit at a time; the living stay."""
    for number in range(5):
        items.put(space, str(number), ttl=5)
    items.expire(space)
    items.put(space, "alive", ttl=5)
    with items.database.statement() as connection:
        assert queries.delete_expired(connection, 2) == 2
        while queries.delete_expired(connection, 2):
            pass
    assert list(items.lives(space)) == ["alive"]
