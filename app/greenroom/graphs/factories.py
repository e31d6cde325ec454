"""Functions that make a graph: matched to their parameters at load, called at every use."""

import asyncio
import contextvars
import dataclasses
import inspect
import re
import threading
import types
import typing
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore
from langgraph_sdk import runtime as sdk_runtime
from pydantic import BaseModel

from greenroom.errors import GraphFault
from greenroom.logs import get_logger

log = get_logger(__name__)

Access = Literal["threads.create_run", "threads.update", "threads.read", "assistants.read"]
Argument = Literal["config", "runtime"]
Result = TypeVar("Result")

IS_FOR_EXECUTION = "__is_for_execution__"
"""Key of a factory's configurable: True for a run, False for an inspection."""

RUNTIME_TYPES = (
    sdk_runtime._ServerRuntimeBase,
    sdk_runtime._ExecutionRuntime,
    sdk_runtime._ReadRuntime,
)


class LoadError(Exception):
    """One graph of langgraph.json is not usable as written; the sentence says why."""


@dataclass(frozen=True, slots=True)
class GraphFactory:
    """A function that makes the graph anew for every use."""

    function: Callable[..., Any]
    arguments: Mapping[str, Argument]
    """Parameter name to what it is given; an asterisked name stands for a position."""
    context_type: Any = None
    """`Ctx` of a parameter `runtime: ServerRuntime[Ctx]`, else None."""
    runs_on_loop: bool = False
    """The call itself cannot block: a coroutine function or an async context manager."""


def make_factory(function: Callable[..., Any]) -> GraphFactory:
    """Match a factory's parameters to what we can give, by annotation (langgraph-json.md, 3)."""
    annotations = _annotations(function)
    arguments: dict[str, Argument] = {}
    unannotated: list[str] = []
    context_type = None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        key = f"*{name}" if parameter.kind is parameter.POSITIONAL_ONLY else name
        wanted, wanted_context = _wanted(annotations.get(name, parameter.annotation))
        if wanted is not None:
            arguments[key] = wanted
            context_type = wanted_context or context_type
        elif parameter.default is not parameter.empty:
            continue
        elif parameter.annotation is parameter.empty:
            unannotated.append(key)
        else:
            raise _refuse(function)
    if len(unannotated) > 1 or (unannotated and "config" in arguments.values()):
        raise _refuse(function)
    arguments |= dict.fromkeys(unannotated, "config")
    return GraphFactory(function, arguments, context_type, _runs_on_loop(function))


def _refuse(function: Callable[..., Any]) -> LoadError:
    return LoadError(
        f"Graph factory {getattr(function, '__name__', function)!r} can only accept arguments of "
        "type ServerRuntime and/or RunnableConfig"
    )


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    target: Any = inspect.unwrap(function)
    if not inspect.isroutine(target):
        target = getattr(target, "func", type(target).__call__)
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:  # noqa: BLE001 - may name what exists only while type checking
        return {}


def _wanted(annotation: Any) -> tuple[Argument | None, Any]:
    """Tell what a parameter wants, and the context type of a `ServerRuntime[...]`."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _wanted(inner[0])
    if origin in (typing.Union, types.UnionType):
        found = [_wanted(option) for option in inner if option is not types.NoneType]
        return next((each for each in found if each[0]), (None, None))
    if annotation is sdk_runtime.ServerRuntime or annotation in RUNTIME_TYPES:
        return "runtime", None
    if origin is sdk_runtime.ServerRuntime or origin in RUNTIME_TYPES:
        return "runtime", inner[0]
    if annotation in (RunnableConfig, dict, Mapping) or origin in (dict, Mapping):
        return "config", None
    if isinstance(annotation, str):
        return _wanted_by_name(annotation), None
    return None, None


def _wanted_by_name(annotation: str) -> Argument | None:
    """Read an annotation that could not be evaluated."""
    if "ServerRuntime" in annotation:
        return "runtime"
    return "config" if re.search(r"\b(RunnableConfig|[dD]ict|Mapping)\b", annotation) else None


def _runs_on_loop(function: Callable[..., Any]) -> bool:
    if inspect.iscoroutinefunction(function):
        return True
    # What @asynccontextmanager returns: the call only makes a generator.
    return inspect.isasyncgenfunction(getattr(function, "__wrapped__", None))


@dataclass(frozen=True, slots=True)
class Given:
    """What one opening offers to a factory."""

    config: RunnableConfig
    store: BaseStore | None
    access: Access
    user: Any
    context: Any

    def config_copy(self) -> RunnableConfig:
        """The config as a factory sees it, told whether this is a run."""
        configurable = {
            **(self.config.get("configurable") or {}),
            IS_FOR_EXECUTION: self.access == "threads.create_run",
        }
        return {**self.config, "configurable": configurable}

    def runtime(self, context_type: Any) -> Any:
        """A ServerRuntime of the kind that fits the access."""
        fields: dict[str, Any] = {
            "access_context": self.access,
            "user": self.user,
            "store": self.store,
        }
        if self.access != "threads.create_run":
            return sdk_runtime._ReadRuntime(**fields)
        return sdk_runtime._ExecutionRuntime(**fields, context=_coerce(self.context, context_type))


def _coerce(context: Any, context_type: Any) -> Any:
    """Make a run's context the type that `ServerRuntime[...]` names, as nodes get it."""
    if not isinstance(context, dict) or not isinstance(context_type, type):
        return context
    if issubclass(context_type, BaseModel) or dataclasses.is_dataclass(context_type):
        return context_type(**context)
    return context


@asynccontextmanager
async def open_made(
    factory: GraphFactory, graph_id: str, given: Given
) -> AsyncIterator[Pregel[Any, Any, Any, Any]]:
    """Call a factory and keep what it made open for the block, a context manager entered."""
    made = await _call(factory, given)
    if isinstance(made, AbstractAsyncContextManager) and not isinstance(made, Pregel):
        async with made as value:
            yield _compiled(await _awaited(value), graph_id)
    elif isinstance(made, AbstractContextManager):
        async with _in_threads(made) as value:
            yield _compiled(await _awaited(value), graph_id)
    else:
        yield _compiled(made, graph_id)


async def _call(factory: GraphFactory, given: Given) -> Any:
    values = {
        name: given.config_copy() if wanted == "config" else given.runtime(factory.context_type)
        for name, wanted in factory.arguments.items()
    }
    positions = [value for name, value in values.items() if name.startswith("*")]
    names = {name: value for name, value in values.items() if not name.startswith("*")}
    if factory.runs_on_loop:
        return await _awaited(factory.function(*positions, **names))
    return await _awaited(await run_in_thread(lambda: factory.function(*positions, **names)))


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _compiled(value: Any, graph_id: str) -> Pregel[Any, Any, Any, Any]:
    if isinstance(value, Pregel):
        return value
    if isinstance(value, StateGraph):
        return value.compile()
    raise GraphFault(
        f"The factory of graph '{graph_id}' returned {type(value).__name__}, which is not a graph"
    )


@asynccontextmanager
async def _in_threads(manager: AbstractContextManager[Any]) -> AsyncIterator[Any]:
    """Enter and leave an ordinary context manager off the loop."""
    value = await run_in_thread(manager.__enter__)
    try:
        yield value
    except BaseException as error:
        if not await run_in_thread(manager.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await run_in_thread(manager.__exit__, None, None, None)


async def run_in_thread(function: Callable[..., Result], *args: Any) -> Result:
    """Run what may block in a thread of its own.

    Not `asyncio.to_thread`: a few hung calls would fill that pool and stop everyone else's, and
    would keep the process from ending. A hung thread here is a daemon and harms nobody.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()
    scope = contextvars.copy_context()

    def deliver(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def work() -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = scope.run(function, *args)
        except StopIteration as error:
            # A future refuses to carry it.
            failure = RuntimeError("user code raised StopIteration")
            failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            failure = error
        try:
            loop.call_soon_threadsafe(deliver, result, failure)
        except RuntimeError:
            # The loop was closed meanwhile: nobody waits any more.
            log.debug("result of a thread came too late")

    threading.Thread(target=work, name="graph-call", daemon=True).start()
    return await done
