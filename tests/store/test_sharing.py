"""Graphs and the API see the same items by the same rules."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import InvalidNamespaceError, PutOp
from langgraph.store.postgres.aio import AsyncPostgresStore
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from greenroom.config import Project
from greenroom.database.engine import Database
from greenroom.graphs.long_term import Pool, open_store


@pytest.fixture
async def pool(database: Database, database_uri: str) -> AsyncIterator[Pool]:
    """Connections as the graphs process has them."""
    made: Pool = AsyncConnectionPool(
        database_uri,
        kwargs={"autocommit": True, "row_factory": dict_row, "prepare_threshold": 0},
        min_size=4,
        open=False,
    )
    async with made:
        yield made


@pytest.fixture
async def store(pool: Pool) -> AsyncPostgresStore:
    """What a graph gets."""
    return open_store(pool, Project(directory=Path(), graphs={}))


async def test_what_the_api_puts_a_graph_finds(
    items: Any, store: AsyncPostgresStore, space: list[str]
) -> None:
    """By key, by search, by namespace."""
    items.put([*space, "a_b"], "k", {"n": [1, {"x": None}]}, ttl=5)
    found = await store.aget((*space, "a_b"), "k", refresh_ttl=False)
    assert found is not None and found.value == {"n": [1, {"x": None}]}
    assert [item.key for item in await store.asearch(tuple(space))] == ["k"]
    assert await store.alist_namespaces(prefix=tuple(space)) == [(*space, "a_b")]


async def test_what_a_graph_puts_the_api_finds(
    items: Any, store: AsyncPostgresStore, space: list[str]
) -> None:
    """Times and all."""
    await store.aput(tuple(space), "k", {"n": 1}, ttl=7)
    (item,) = items.search(space)
    assert item["value"] == {"n": 1} and item["namespace"] == space
    found = await store.aget(tuple(space), "k")
    assert found is not None and item["created_at"] == found.created_at.isoformat()
    assert items.lives(space)["k"][1] == 7
    await store.adelete(tuple(space), "k")
    assert items.get(space, "k") is None


async def test_an_expired_item_is_gone_for_graphs_too(
    items: Any, store: AsyncPostgresStore, space: list[str]
) -> None:
    """Langgraph alone would show it until the sweep."""
    items.put(space, "k", ttl=5)
    items.expire(space)
    assert await store.aget(tuple(space), "k") is None
    assert await store.asearch(tuple(space)) == []
    assert await store.alist_namespaces(prefix=tuple(space)) == []


async def test_half_a_minute_of_a_graph_survives_a_read(
    items: Any, store: AsyncPostgresStore, space: list[str]
) -> None:
    """Langgraph's integer column made nought of it, so that the first read ended the item."""
    await store.aput(tuple(space), "k", {}, ttl=0.5)
    assert items.get(space, "k") is not None
    assert await store.aget(tuple(space), "k") is not None
    assert await store.aget(tuple(space), "k") is not None


async def test_concurrent_searches_and_puts_of_the_same_items_do_not_deadlock(
    pool: Pool, space: list[str]
) -> None:
    """Every search prolongs what it finds; langgraph alone locks the items in any order."""
    namespace, numbers = tuple(space), [str(number) for number in range(50)]
    stores = [open_store(pool, Project(directory=Path(), graphs={})) for _ in range(4)]
    await stores[0].abatch([PutOp(namespace, key, {"n": 0}, ttl=5) for key in numbers])

    async def work(store: AsyncPostgresStore, keys: list[str]) -> None:
        for n in range(20):
            await store.abatch([PutOp(namespace, key, {"n": n}, ttl=5) for key in keys])
            assert len(await store.asearch(namespace, limit=100)) == len(numbers)

    orders = [numbers, numbers[::-1], numbers[::2] + numbers[1::2], numbers[25:] + numbers[:25]]
    await asyncio.gather(*map(work, stores, orders))


@pytest.mark.parametrize(
    "given",
    [
        {"n": {"$gt": 9}},
        {"n": {"$in": [2, None]}},
        {"n": None},
        {"n": {"$ne": 2}},
        {"o": {"p": 1}},
        {"o": {"p": {"$gte": 1}, "q": 2}},
    ],
)
async def test_filters_mean_the_same_to_graphs(
    items: Any, store: AsyncPostgresStore, space: list[str], given: dict[str, Any]
) -> None:
    """Langgraph alone compares numbers as text, and has no nesting."""
    for key, value in {"a": {"n": 2, "o": {"p": 1, "q": 2}}, "b": {"n": 10}, "c": {}}.items():
        items.put(space, key, value)
    found = await store.asearch(tuple(space), filter=given)
    assert "".join(sorted(item.key for item in found)) == items.keys(space, filter=given)


async def test_graphs_get_the_errors_that_they_know(
    store: AsyncPostgresStore, space: list[str]
) -> None:
    """ValueErrors, as langgraph's own stores raise."""
    with pytest.raises(ValueError, match=r"Unsupported operator: \$bogus"):
        await store.asearch(tuple(space), filter={"n": {"$bogus": 1}})
    with pytest.raises(InvalidNamespaceError):
        await store.aput(("a.b",), "k", {})
