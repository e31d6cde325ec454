"""Searches: whole labels, filters, pages, namespaces."""

from collections.abc import Iterator
from typing import Any

import pytest

from greenroom import encryption
from greenroom.errors import BadRequest, InvalidRequest
from greenroom.store.filters import read_filter
from greenroom.store.sealed import MAX_SCANNED, Scan

VALUES = {
    "a": {"n": 2, "s": "x", "tags": ["red", "blue"], "o": {"p": {"q": 1}, "r": 1}},
    "b": {"n": 10, "s": "y", "tags": [], "o": {"p": {"q": 2}}},
    "c": {"n": None, "s": "10", "tags": "red", "o": {}},
    "d": {"n": "2", "o": [1]},
    "e": {},
}


@pytest.fixture(params=["plain", "encrypted", "mixed"])
def filled(items: Any, space: list[str], request: pytest.FixtureRequest) -> Iterator[Any]:
    """VALUES in one namespace: as they are, encrypted, or from before and after the key."""
    encryption.install([b"k" * 32] if request.param == "encrypted" else [])
    try:
        for number, (key, value) in enumerate(VALUES.items()):
            if request.param == "mixed" and number == 2:
                encryption.install([b"k" * 32])
            items.put(space, key, value)
        yield items
    finally:
        encryption.install([])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "abcde"),
        ({"n": 2}, "a"),
        ({"n": 2.0}, "a"),
        ({"n": None}, "ce"),
        ({"n": {"$eq": "2"}}, "d"),
        ({"n": {"$ne": 2}}, "bcde"),
        ({"n": {"$ne": None}}, "abd"),
        ({"n": {"$gt": 2}}, "b"),
        ({"n": {"$gte": 2}}, "ab"),
        ({"n": {"$lt": 10}}, "a"),
        ({"n": {"$lte": 10, "$gt": 2}}, "b"),
        ({"n": {"$gt": 1}, "s": "x"}, "a"),
        ({"s": {"$gte": "x"}}, "ab"),
        ({"n": {"$in": [2, "2"]}}, "ad"),
        ({"n": {"$in": []}}, ""),
        ({"n": {"$nin": [2, None]}}, "bd"),
        ({"tags": ["red", "blue"]}, "a"),
        ({"tags": ["blue", "red"]}, ""),
        ({"tags": {"$contains": "red"}}, "a"),
        ({"tags": {"$contains": ["red"]}}, ""),
        ({"o": {"$contains": 1}}, "d"),
        ({"o": {"$contains": True}}, ""),
        ({"n": True}, ""),
        ({"o": {"r": True}}, ""),
        ({"o": {"$ne": {"p": {"q": 2.0}}}}, "acde"),
        ({"n": {"$gt": False}}, ""),
        ({"o": {"p": {"q": 1}}}, "a"),
        ({"o": {"p": {"q": {"$gte": 1}}}}, "ab"),
        ({"o": {"$eq": {"p": {"q": 2}}}}, "b"),
        ({"o": {"x": None}}, "abc"),
        ({"o": {}}, "abc"),
        ({"o": {"0": 1}}, ""),
        ({"%s": 1}, ""),
    ],
)
def test_filters(filled: Any, space: list[str], given: dict[str, Any], expected: str) -> None:
    """Every condition holds; a missing field counts as null, and compares with nothing."""
    assert filled.keys(space, filter=given) == expected


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"n": {"$bogus": 1}}, r"\$bogus"),
        ({"n": {"$gt": 1, "x": 1}}, "x"),
        ({"n": {"$gt": None}}, r"\$gt"),
        ({"n": {"$lt": [1]}}, r"\$lt"),
        ({"n": {"$in": 1}}, r"\$in"),
        ({str(number): number for number in range(201)}, "200"),
    ],
)
def test_filters_that_mean_nothing_are_refused(
    items: Any, space: list[str], given: dict[str, Any], named: str
) -> None:
    """With the operator's name, whether or not there are items to compare."""
    with pytest.raises(BadRequest, match=named):
        items.search(space, filter=given)


def test_a_prefix_matches_whole_labels_literally(items: Any, space: list[str]) -> None:
    """Not the beginning of a label, and no wildcard of LIKE."""
    root = space[1]
    for number, label in enumerate([root, f"{root}x", f"{root}_", f"{root}%", f"{root}\\"]):
        items.put(["tests", label], str(number))
        items.put(["tests", label, "below"], str(number))
    for number, label in enumerate([root, f"{root}x", f"{root}_", f"{root}%", f"{root}\\"]):
        assert items.keys(["tests", label]) == f"{number}{number}"
    with pytest.raises(InvalidRequest):
        items.search([f"tests.{root}"])


def test_pages_are_in_order_of_change_newest_first(items: Any, space: list[str]) -> None:
    """A limit of nought asks for nothing."""
    for key in "abcde":
        items.put(space, key)
    items.put(space, "b")
    pages = [items.search(space, limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [[item["key"] for item in page] for page in pages] == [["b", "e"], ["d", "c"], ["a"]]
    assert items.search(space, limit=0) == []


def test_a_query_without_an_index_does_nothing(items: Any, space: list[str]) -> None:
    """The reference ignores it, too: every score is null."""
    items.put(space, "k")
    (item,) = items.search(space, query="anything")
    assert item["score"] is None


@pytest.fixture
def tree(items: Any, space: list[str]) -> Any:
    """Namespaces below `space`, one of them with two items."""
    for path in ["u1.notes.work", "u1.notes.home", "u2.notes.home", "u2.plans", "u_", "U", "é"]:
        items.put([*space, *path.split(".")], "k")
    items.put([*space, "u2", "plans"], "k2")
    return items


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["U", "u1.notes.home", "u1.notes.work", "u2.notes.home", "u2.plans", "u_", "é"]),
        ({"prefix": ["u1"]}, ["u1.notes.home", "u1.notes.work"]),
        ({"prefix": ["*", "notes"]}, ["u1.notes.home", "u1.notes.work", "u2.notes.home"]),
        ({"prefix": ["*", "*", "home"]}, ["u1.notes.home", "u2.notes.home"]),
        ({"prefix": ["u"]}, []),
        ({"suffix": ["home"]}, ["u1.notes.home", "u2.notes.home"]),
        ({"suffix": ["notes", "*"]}, ["u1.notes.home", "u1.notes.work", "u2.notes.home"]),
        ({"suffix": ["ome"]}, []),
        ({"prefix": ["u2"], "suffix": ["plans"]}, ["u2.plans"]),
        ({"max_depth": 3}, ["U", "u1", "u2", "u_", "é"]),
        ({"max_depth": 4, "suffix": ["home"]}, ["u1.notes", "u2.notes"]),
        ({"limit": 2, "offset": 1}, ["u1.notes.home", "u1.notes.work"]),
        ({"limit": 0}, []),
    ],
)
def test_namespaces(
    tree: Any, space: list[str], query: dict[str, Any], expected: list[str]
) -> None:
    """By whole labels, `*` for any one; cut and deduplicated; in order of code points."""
    asked = {**query, "prefix": [*space, *query.get("prefix", [])]}
    assert tree.namespaces(**asked) == [[*space, *path.split(".")] for path in expected]


def test_a_namespace_vanishes_with_its_last_item(tree: Any, space: list[str]) -> None:
    """There is no such thing as an empty namespace."""
    tree.delete([*space, "u2", "plans"], "k")
    assert [*space, "u2", "plans"] in tree.namespaces(prefix=space)
    tree.delete([*space, "u2", "plans"], "k2")
    assert [*space, "u2", "plans"] not in tree.namespaces(prefix=space)


def test_a_search_does_not_decrypt_without_end() -> None:
    """It is refused with the remedy; up to the bound it goes on, and keeps one page."""
    scan = Scan(read_filter({"n": {"$gte": 0}}), limit=2, offset=3)
    scan.take((number, b'{"n":%d}' % number) for number in range(-4, 9))
    assert [row for row, _ in scan.found] == [3, 4]
    endless = Scan(read_filter({"n": 1}), limit=1, offset=0)
    endless.take((None, b"{}") for _ in range(MAX_SCANNED))
    with pytest.raises(BadRequest, match="longer namespace"):
        endless.take([(None, b'{"n":1}')])
