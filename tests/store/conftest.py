"""Namespaces of one's own, the service without HTTP, and a deployment with an index."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment
from sqlalchemy import text

from greenroom import wire
from greenroom.config import Config, load_project
from greenroom.database.engine import Database
from greenroom.database.migrate import migrate
from greenroom.graphs.client import GraphsClient
from greenroom.store import service
from greenroom.store.schemas import ItemDelete, ItemPut, ItemQuery, ItemSearch, NamespaceSearch
from greenroom.store.settings import StoreSettings

PROJECT = Path(__file__).parent / "project" / "langgraph.json"


@dataclass
class Items:
    """The service as a client sees it: JSON in, JSON out."""

    database: Database
    settings: StoreSettings = field(default_factory=StoreSettings)

    @property
    def graphs(self) -> GraphsClient:
        """A way to a process that is not needed without an index."""
        return GraphsClient("/nowhere")

    def put(self, namespace: list[str], key: str, value: Any = None, **more: Any) -> None:
        body = ItemPut(namespace=namespace, key=key, value=value or {}, **more)
        service.put(self.database, self.graphs, self.settings, body)

    def get(self, namespace: list[str], key: str, **more: Any) -> Any:
        query = ItemQuery(namespace=".".join(namespace), key=key, **more)
        return _as_json(service.find(self.database, self.settings, query, key))

    def delete(self, namespace: list[str], key: str) -> None:
        service.delete(self.database, ItemDelete(namespace=namespace, key=key))

    def search(self, prefix: list[str], **more: Any) -> list[Any]:
        body = ItemSearch(namespace_prefix=prefix, **more)
        found = service.search(self.database, self.graphs, self.settings, body)
        items: list[Any] = _as_json(found)["items"]
        return items

    def keys(self, prefix: list[str], **more: Any) -> str:
        return "".join(sorted(item["key"] for item in self.search(prefix, **more)))

    def namespaces(self, **query: Any) -> list[list[str]]:
        return service.list_namespaces(self.database, NamespaceSearch(**query))

    def expire(self, namespace: list[str]) -> None:
        """Let the time of everything in a namespace be over."""
        self._execute("UPDATE store SET expires_at = now() - interval '1 s'", namespace)

    def lives(self, namespace: list[str]) -> dict[str, tuple[float | None, int | None]]:
        """Minutes to live, and minutes that a read gives, of each item; swept or not."""
        sql = (
            "SELECT key, extract(epoch FROM expires_at - now()) / 60 AS minutes, ttl_minutes "
            "FROM store"
        )
        return {
            row.key: (None if row.minutes is None else float(row.minutes), row.ttl_minutes)
            for row in self._execute(sql, namespace)
        }

    def _execute(self, sql: str, namespace: list[str]) -> Any:
        with self.database.statement() as connection:
            found = connection.execute(
                text(f"{sql} WHERE prefix = :prefix"), {"prefix": ".".join(namespace)}
            )
            return found.all() if found.returns_rows else None


def _as_json(value: Any) -> Any:
    return wire.loads(wire.dumps(value))


@pytest.fixture
def items(database: Database) -> Items:
    """The store without settings."""
    return Items(database)


@pytest.fixture
def make_items(database: Database) -> Callable[[StoreSettings], Items]:
    """The store with settings."""
    return lambda settings: Items(database, settings)


@pytest.fixture
def space() -> list[str]:
    """A namespace that nobody has used."""
    return ["tests", uuid4().hex]


@pytest.fixture(scope="session")
def indexed() -> Iterator[Deployment]:
    """Web, graphs and worker processes of a project with `store.index`."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory), project=PROJECT) as made:
            migrate(
                Config(
                    database_uri=made.postgres.uri,
                    redis_uri=made.redis.uri,
                    project=load_project(PROJECT, {}),
                )
            )
            made.start_web()
            made.start_worker()
            yield made


@pytest.fixture
def client(indexed: Deployment) -> Iterator[httpx.Client]:
    """A client of the deployment with an index."""
    with indexed.client() as opened:
        yield opened
