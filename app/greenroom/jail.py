"""Where the files may lie that langgraph.json names: in its folder and its local dependencies.

Whoever may write that file alone shall not have code run, or variables read, from elsewhere.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from greenroom.errors import ConfigError

CODE_KEYS = (
    "auth.path",
    "checkpointer.path",
    "encryption.path",
    "http.app",
    "priority.path",
    "store.index.embed",
)
"""Beside `graphs`: what names code, `./file.py:attribute` or `package.module:attribute`."""


def check_files(raw: Mapping[str, Any], directory: Path, allowed: str, file: Path) -> None:
    """Refuse a file that lies, after all symbolic links, outside every folder that may hold one.

    Modules that are named with dots are found as any import is, and not looked at.

    Args:
        raw: what langgraph.json says; keys that the environment has set are the owner's word.
        directory: of langgraph.json, resolved; relative paths begin there.
        allowed: more folders, as GREENROOM_ALLOWED_PATHS has them.
        file: langgraph.json, for the sentence.
    Raises:
        ConfigError: names the key and the file.
    """
    folders = list(list_folders(raw.get("dependencies"), directory, allowed))
    for key, location in list_files(raw):
        found = (directory / location).resolve()
        if not any(found.is_relative_to(folder) for folder in folders):
            raise ConfigError(
                f'{file}: "{key}" names {found}, outside the project and its local dependencies: '
                "add the folder to GREENROOM_ALLOWED_PATHS if it may be used"
            )


def list_folders(dependencies: Any, directory: Path, allowed: str) -> Iterator[Path]:
    """The folders that may hold files."""
    yield directory
    local = dependencies if isinstance(dependencies, list) else []
    more = [each for each in local if isinstance(each, str) and each.startswith(".")]
    for each in (*more, *filter(None, allowed.split(os.pathsep))):
        yield (directory / each).resolve()


def list_files(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each key that names a file, and the path as it stands there."""
    if isinstance(env := raw.get("env"), str):
        yield "env", env
    for key, named in list_code(raw):
        location = named.rpartition(":")[0]
        if "/" in location or "\\" in location or location.endswith(".py"):
            yield key, location


def list_code(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each key that names code."""
    graphs = raw.get("graphs")
    for graph_id, entry in graphs.items() if isinstance(graphs, Mapping) else ():
        named = entry.get("path") if isinstance(entry, Mapping) else entry
        if isinstance(named, str):
            yield f"graphs.{graph_id}", named
    for key in CODE_KEYS:
        found = member(raw, key.split("."))
        if isinstance(found, str):
            yield key, found


def member(value: Any, names: Iterable[str]) -> Any:
    """What stands at a path of names; None where there is nothing."""
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
