"""The graphs of langgraph.json: imported once, opened for every use.

Nothing here belongs to an event loop: the worker opens graphs from one loop per run.
"""

import copy
import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
import types
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore

from greenroom.config import GraphEntry, Project
from greenroom.errors import ConfigError, GraphFault, GraphNotFound
from greenroom.graphs.factories import (
    Access,
    Given,
    GraphFactory,
    LoadError,
    make_factory,
    open_made,
)
from greenroom.graphs.users import user_of
from greenroom.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BrokenGraph:
    """A graph that could not be loaded."""

    message: str
    """One sentence, which names the graph and ends in the traceback's last line."""
    traceback: str


@dataclass(frozen=True, slots=True)
class StaticGraph:
    """A graph that was complete when its module had been imported."""

    graph: Pregel[Any, Any, Any, Any]


class Registry:
    """The loaded and the broken graphs of one project."""

    def __init__(
        self, loaded: Mapping[str, StaticGraph | GraphFactory], broken: Mapping[str, BrokenGraph]
    ) -> None:
        self.loaded = loaded
        self.broken = broken

    @property
    def graph_ids(self) -> list[str]:
        """All ids of langgraph.json, broken graphs included, sorted."""
        return sorted([*self.loaded, *self.broken])

    def is_static(self, graph_id: str) -> bool:
        """Tell whether the graph is the same at every opening, whatever the config."""
        return isinstance(self.loaded.get(graph_id), StaticGraph)

    def has_fixed_history(self, graph_id: str) -> bool:
        """Tell whether langgraph alone makes the snapshots of a graph that is always the same."""
        entry = self.loaded.get(graph_id)
        return (
            isinstance(entry, StaticGraph)
            and type(entry.graph).aget_state_history is Pregel.aget_state_history
        )

    @asynccontextmanager
    async def open(
        self,
        graph_id: str,
        config: RunnableConfig,
        *,
        checkpointer: BaseCheckpointSaver[Any] | None,
        store: BaseStore | None,
        access: Access,
        context: Any = None,
    ) -> AsyncIterator[Pregel[Any, Any, Any, Any]]:
        """Give the graph for one use, with our persistence in place of its own.

        Its name is the graph id. A factory is called (a blocking one in a thread), a context
        manager entered and left; what they raise comes through unchanged.

        Args:
            config: what a factory sees; not modified. Names the caller, for `ServerRuntime.user`.
            checkpointer: None for a graph that shall remember nothing. Subgraphs inherit it.
            context: the run's context; only given with the access `threads.create_run`.
        Raises:
            GraphNotFound: langgraph.json has no such graph.
            GraphFault: it could not be loaded, or its factory returned something else.
        """
        entry = self.loaded.get(graph_id)
        if isinstance(entry, StaticGraph):
            yield _bind(entry.graph, graph_id, checkpointer, store)
        elif isinstance(entry, GraphFactory):
            given = Given(config, store, access, user_of(config), context)
            async with open_made(entry, graph_id, given) as graph:
                yield _bind(graph, graph_id, checkpointer, store)
        elif graph_id in self.broken:
            raise GraphFault(self.broken[graph_id].message)
        else:
            raise GraphNotFound(graph_id, self.graph_ids)


def _bind(
    graph: Pregel[Any, Any, Any, Any],
    graph_id: str,
    checkpointer: BaseCheckpointSaver[Any] | None,
    store: BaseStore | None,
) -> Pregel[Any, Any, Any, Any]:
    # Not `graph.copy()`: that validates again (20 against 3 microseconds) and forgets the mappers
    # which `compile` sets afterwards.
    bound = copy.copy(graph)
    bound.checkpointer = checkpointer
    bound.store = store
    bound.name = graph_id
    return bound


def load_registry(project: Project) -> Registry:
    """Import every graph of the project. A failure disables that graph alone, and is logged.

    Puts the project's directory and its local dependencies on `sys.path`.
    """
    _extend_path(project)
    modules: dict[Path, types.ModuleType] = {}
    loaded: dict[str, StaticGraph | GraphFactory] = {}
    broken: dict[str, BrokenGraph] = {}
    for graph_id, entry in project.graphs.items():
        try:
            loaded[graph_id] = _load_graph(entry, project.directory, modules)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - users' code, which may also call sys.exit
            broken[graph_id] = _broken(graph_id, error)
            log.error(  # noqa: TRY400 (the traceback is a field, without our own frames)
                "graph not loaded",
                graph_id=graph_id,
                path=entry.path,
                error=broken[graph_id].message,
                traceback=broken[graph_id].traceback,
            )
    return Registry(loaded, broken)


def _extend_path(project: Project) -> None:
    local = [project.directory / path for path in project.dependencies if path.startswith(".")]
    # A dependency with a src layout is importable from there once installed: the same here.
    sources = [path / "src" for path in local if (path / "src").is_dir()]
    for path in reversed([project.directory, *local, *sources]):
        folder = str(path.resolve())
        if folder not in sys.path:
            sys.path.insert(0, folder)


def _broken(graph_id: str, error: BaseException) -> BrokenGraph:
    last_line = (
        str(error)
        if isinstance(error, LoadError)
        else traceback.format_exception_only(error)[-1].strip()
    )
    return BrokenGraph(
        f"Graph '{graph_id}' could not be loaded: {last_line}",
        "".join(traceback.format_exception(error)),
    )


def _load_graph(
    entry: GraphEntry, directory: Path, modules: dict[Path, types.ModuleType]
) -> StaticGraph | GraphFactory:
    location, _, attribute = entry.path.rpartition(":")
    module = _import(location, directory, modules)
    return _classify(_attribute(module, attribute, location), attribute, location)


def load_attribute(project: Project, path: str, key: str) -> Any:
    """Load what a key of langgraph.json other than `graphs` names.

    Args:
        path: `./file.py:attribute` or `package.module:attribute`.
        key: for the sentence.
    Raises:
        ConfigError: it cannot be imported, or has no such attribute.
    """
    location, _, attribute = path.rpartition(":")
    _extend_path(project)
    # A file that has graphs, too, is not executed twice: its classes would be others.
    file = (project.directory / location).resolve()
    known = sys.modules.get(_module_name(location))
    modules = {file: known} if known and getattr(known, "__file__", None) == str(file) else {}
    try:
        module = _import(location, project.directory, modules)
    except LoadError as error:
        raise ConfigError(f"{key}: {error}") from error
    except (Exception, SystemExit) as error:  # the owner's code
        log.exception("not loaded", key=key, path=path)
        raise ConfigError(f"{key}: {path} cannot be imported: {error!r}") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{key}: there is no {attribute!r} in {location}")
    return getattr(module, attribute)


def _import(
    location: str, directory: Path, modules: dict[Path, types.ModuleType]
) -> types.ModuleType:
    if "/" in location or "\\" in location or location.endswith(".py"):
        return _import_file(location, directory, modules)
    return importlib.import_module(location)


def _import_file(
    location: str, directory: Path, modules: dict[Path, types.ModuleType]
) -> types.ModuleType:
    """Import a file once for all graphs in it, under a name that depends on `location` alone.

    Every process of a deployment must find the classes that checkpoints name by module.
    """
    path = (directory / location).resolve()
    if path in modules:
        return modules[path]
    if path.suffix != ".py":
        raise LoadError(f"'{location}' is not a Python file, and only Python graphs are supported")
    if not path.is_file():
        raise LoadError(f"there is no file '{location}' beside langgraph.json")
    name = _module_name(location)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"'{location}' cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    modules[path] = module
    return module


def _module_name(location: str) -> str:
    parts = Path(location).with_suffix("").as_posix()
    readable = re.sub(r"\W+", "_", parts).strip("_")
    return f"greenroom_graph_{readable}_{hashlib.sha256(parts.encode()).hexdigest()[:8]}"


def _attribute(module: types.ModuleType, attribute: str, location: str) -> Any:
    try:
        return getattr(module, attribute)
    except AttributeError:
        near = difflib.get_close_matches(attribute, _candidates(module), 3, 0.4)
        hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
        raise LoadError(f"Could not find graph '{attribute}' in '{location}'.{hint}") from None


def _candidates(module: types.ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and (isinstance(value, Pregel | StateGraph) or callable(value))
    ]


def _classify(value: Any, attribute: str, location: str) -> StaticGraph | GraphFactory:
    if isinstance(value, Pregel):
        return StaticGraph(value)
    if isinstance(value, StateGraph):
        return StaticGraph(value.compile())
    if callable(value) and not isinstance(value, type):
        return make_factory(value)
    raise LoadError(
        f"Variable '{attribute}' in module '{location}' is not a Graph or Graph factory function"
    )
