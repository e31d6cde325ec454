"""The `store` block of langgraph.json, and the database that it needs."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from deployment import Deployment

from greenroom.cli.embedded import EmbeddedPostgres
from greenroom.config import Config, Project, load_project
from greenroom.database.migrate import migrate
from greenroom.errors import ConfigError
from greenroom.graphs.long_term import load_embeddings
from greenroom.store.settings import Index, StoreSettings, read_settings

DIRECTORY = Path(__file__).parent / "project"


def project_with(store: Any) -> Project:
    return Project(directory=DIRECTORY, graphs={}, raw={"store": store})


def test_the_block_may_be_absent_empty_or_full() -> None:
    """langgraph-json.md, section 2.1."""
    full = {
        "index": {"dims": 8, "embed": "openai:small", "fields": ["a", "b", "a"]},
        "ttl": {"default_ttl": 1.5, "refresh_on_read": False, "sweep_interval_minutes": 10},
    }
    assert read_settings(project_with(None)) == StoreSettings()
    assert read_settings(project_with({})) == StoreSettings()
    assert read_settings(project_with(full)) == StoreSettings(
        Index(8, "openai:small", ("a", "b")), 1.5, False, 10.0
    )


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ([], '"store"'),
        ({"ttl": 5}, '"store.ttl"'),
        ({"ttl": {"default_ttl": "5"}}, '"store.ttl.default_ttl"'),
        ({"ttl": {"default_ttl": 0}}, '"store.ttl.default_ttl"'),
        ({"ttl": {"default_ttl": float("inf")}}, '"store.ttl.default_ttl"'),
        ({"ttl": {"refresh_on_read": 1}}, '"store.ttl.refresh_on_read"'),
        ({"ttl": {"sweep_interval_minutes": True}}, '"store.ttl.sweep_interval_minutes"'),
        ({"index": "x"}, '"store.index"'),
        ({"index": {"embed": "a:b"}}, '"store.index.dims"'),
        ({"index": {"dims": True, "embed": "a:b"}}, '"store.index.dims"'),
        ({"index": {"dims": 8}}, '"store.index.embed"'),
        ({"index": {"dims": 8, "embed": "embed.py"}}, '"store.index.embed"'),
        ({"index": {"dims": 8, "embed": "a:b", "fields": "text"}}, '"store.index.fields"'),
    ],
)
def test_a_wrong_block_is_refused_by_the_name_of_its_key(block: Any, key: str) -> None:
    """One line each."""
    with pytest.raises(ConfigError, match=key) as caught:
        read_settings(project_with(block))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "embed",
    [
        "./embedding.py:gone",
        "./gone.py:embed",
        "./embedding.py:not_callable",
        "no.such.module:embed",
        "openai:text-embedding-3-small",
    ],
)
def test_an_embedding_function_that_cannot_be_loaded_is_named(embed: str) -> None:
    """A provider's model needs langchain, which is not installed here."""
    with pytest.raises(ConfigError, match=r'"store.index.embed" is') as caught:
        load_embeddings(embed, DIRECTORY)
    assert embed in str(caught.value)


@pytest.mark.parametrize("name", ["embed", "embed_later"])
async def test_sync_and_async_functions_embed_alike(name: str) -> None:
    """langgraph-json.md, section 2.1."""
    embeddings = load_embeddings(f"./embedding.py:{name}", DIRECTORY)
    assert await embeddings.aembed_documents(["cat"]) == [[1.0, 0.0, 0.0, 0.01]]


def test_a_database_without_pgvector_is_refused_with_the_remedy(tmp_path_factory: Any) -> None:
    """As on a server where the extension is not there, or not for us to create."""
    directory = tmp_path_factory.mktemp("postgres")
    for path in [directory, *directory.parents[:2]]:
        path.chmod(0o755)
    with EmbeddedPostgres(directory / "data") as postgres:
        with psycopg.connect(postgres.uri, autocommit=True) as connection:
            connection.execute("CREATE ROLE tenant LOGIN PASSWORD 'tenant'")
            connection.execute("GRANT ALL ON SCHEMA public TO tenant")
        parts = urlsplit(postgres.uri)
        uri = f"postgresql://tenant:tenant@{parts.hostname}:{parts.port}{parts.path}"
        project = load_project(DIRECTORY / "langgraph.json", {})
        with pytest.raises(ConfigError, match="pgvector") as caught:
            migrate(Config(database_uri=uri, redis_uri="redis://unused", project=project))
        assert "CREATE EXTENSION vector" in str(caught.value)


def test_other_dimensions_than_the_stored_vectors_are_refused(indexed: Deployment) -> None:
    """A new embedding model cannot be compared with what the old one left."""
    project = project_with({"index": {"dims": 5, "embed": "./embedding.py:embed"}})
    config = Config(database_uri=indexed.postgres.uri, redis_uri="redis://", project=project)
    with pytest.raises(ConfigError, match=r'"store.index.dims" is 5.*have 4'):
        migrate(config)
