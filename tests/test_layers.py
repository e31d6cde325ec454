"""Imports flow one way: this reads every module and says where one does not."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APP, WORKERS = ROOT / "app", ROOT / "workers"
RESOURCES = {"assistants", "threads", "runs", "protocol", "store", "crons", "webhooks", "system"}
VIEW_FILES = {"views", "state_views", "join_views", "answers"}
KNOWS_FLASK = {"contract", "application", "streaming.respond", "runs.joins", "protocol.socket"}
NEEDS_GRAPHS = {
    "graphs": "the graphs process and the loading of graphs",
    "streaming.encoder": "encodes what graphs stream, inside the worker",
    "streaming.protocol_encoder": "the same for generation 2",
    "database.migrate": "lets langgraph set up its own tables",
}


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Dotted name below the source root's package, and file."""
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


APP_MODULES = dict(modules(APP))


@pytest.mark.parametrize("name", APP_MODULES)
def test_nothing_in_app_imports_the_workers(name: str) -> None:
    """The web must be deployable without the workers' code ever being imported."""
    assert not [one for one in imports_of(APP_MODULES[name]) if one.startswith("greenroom_workers")]


@pytest.mark.parametrize("name", APP_MODULES)
def test_only_views_and_their_frame_know_flask(name: str) -> None:
    """Services and queries can be used from workers, commands and tests alike."""
    inner = name.removeprefix("greenroom.")
    if inner.rpartition(".")[2] in VIEW_FILES or inner.startswith(tuple(KNOWS_FLASK)):
        return
    heads = {one.partition(".")[0] for one in imports_of(APP_MODULES[name])}
    assert "flask" not in heads
    assert "greenroom.contract.services" not in set(imports_of(APP_MODULES[name]))


@pytest.mark.parametrize("name", APP_MODULES)
def test_queries_import_no_rules_and_services_no_views(name: str) -> None:
    """config, errors <- database <- queries <- service <- views."""
    kind = name.rpartition(".")[2]
    above = {
        "queries": ("service", "state_service", *VIEW_FILES),
        "schemas": ("queries", "service", "state_service", *VIEW_FILES),
        "service": tuple(VIEW_FILES),
        "state_service": tuple(VIEW_FILES),
    }.get(kind, ())
    wrong = [one for one in imports_of(APP_MODULES[name]) if one.rpartition(".")[2] in above]
    assert not wrong


@pytest.mark.parametrize("name", APP_MODULES)
def test_the_foundation_knows_no_resource(name: str) -> None:
    """config, errors, wire, database, queue, signals and streaming stand below every resource."""
    inner = name.removeprefix("greenroom.")
    if inner.partition(".")[0] not in {
        *("config", "errors", "wire", "identifiers", "logs"),
        *("database", "queue", "signals", "streaming"),
    }:
        return
    resources = {one.split(".")[1] for one in imports_of(APP_MODULES[name]) if "greenroom." in one}
    if inner == "database.migrate":
        # It also lays down the system assistants and the store's tables, at release time.
        resources -= {"assistants", "store"}
    assert not resources & RESOURCES


@pytest.mark.parametrize("name", APP_MODULES)
def test_langgraph_is_imported_where_graphs_are_at_home(name: str) -> None:
    """The web process stays small and free of users' code: it never even loads langgraph."""
    inner = name.removeprefix("greenroom.")
    if inner.startswith(tuple(NEEDS_GRAPHS)) and inner != "graphs.client":
        return
    heads = {one.partition(".")[0] for one in imports_of(APP_MODULES[name])}
    assert not heads & {"langgraph", "langchain_core", "langgraph_sdk"}


def test_only_config_reads_the_environment() -> None:
    """Every setting is declared, typed and documented in one place."""
    allowed = {"greenroom.config", "greenroom.cli.environment"}
    readers = [
        name
        for name, path in [*APP_MODULES.items(), *modules(WORKERS)]
        if name not in allowed
        and ("os.environ" in path.read_text() or "getenv" in path.read_text())
    ]
    assert readers == []


def test_alembic_folder_is_no_package() -> None:
    """An __init__.py there would shadow the library of that name."""
    assert not (ROOT / "alembic" / "__init__.py").exists()
