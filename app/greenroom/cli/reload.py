"""Restarts a project's processes when its files change."""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from watchfiles import Change, watch

SOURCES = (".py", ".json", ".env")
SKIPPED = {"node_modules", "__pycache__", "venv"}
QUIET_MILLISECONDS = 100
"""An editor writes a file in several steps: changes count once this long nothing has changed."""


def watch_in_background(directory: Path, on_change: Callable[[set[Path]], None]) -> None:
    """Call `on_change` from a thread with the source files that changed, as long as we live."""
    # It tells every change, also those that are none of ours.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    thread = threading.Thread(
        target=_watch, args=(directory, on_change), name="reload", daemon=True
    )
    thread.start()


def _watch(directory: Path, on_change: Callable[[set[Path]], None]) -> None:
    while True:
        # Each directory by itself, not the tree: .venv has thousands, and .greenroom never rests.
        directories = list(watched_directories(directory))
        for changes in watch(
            *directories, recursive=False, step=QUIET_MILLISECONDS, watch_filter=None
        ):
            paths = {Path(path) for _, path in changes}
            born = {Path(path) for change, path in changes if change == Change.added}
            new_directories = [path for path in born if path.is_dir() and not is_skipped(path.name)]
            for new in new_directories:
                paths.update(file for found in watched_directories(new) for file in found.iterdir())
            if sources := {path for path in paths if is_source(path)}:
                on_change(sources)
            if new_directories:
                break


def watched_directories(top: Path) -> Iterable[Path]:
    """Find a directory and those below it that may hold a project's sources."""
    for parent, names, _files in os.walk(top):
        names[:] = [name for name in names if not is_skipped(name)]
        yield Path(parent)


def is_skipped(name: str) -> bool:
    """Tell whether a directory of this name is none of ours: tools' data and installed packages."""
    return name.startswith(".") or name in SKIPPED


def is_source(path: Path) -> bool:
    """Tell whether a change of this file may change what the project does; `.env` has no suffix."""
    return path.name.endswith(SOURCES)
