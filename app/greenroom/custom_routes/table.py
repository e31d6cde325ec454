"""Which requests are for the owner's application, as the graphs process tells it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from greenroom.errors import Unavailable
from greenroom.graphs.client import GraphsClient


@dataclass(frozen=True, slots=True)
class CustomRoute:
    """One route of the application; see `graphs.custom_app.describe_routes`."""

    pattern: re.Pattern[str]
    methods: frozenset[str] | None
    is_socket: bool | None
    is_weak: bool

    def matches(self, path: str, *, is_socket: bool) -> bool:
        """Whether a path is this route's, by whatever method."""
        is_kind = self.is_socket is None or self.is_socket is is_socket
        return is_kind and self.pattern.match(path) is not None

    def takes(self, method: str) -> bool:
        """Whether it answers such requests."""
        return self.methods is None or method in self.methods


@dataclass(frozen=True, slots=True)
class Table:
    """All routes of the application."""

    routes: tuple[CustomRoute, ...]
    is_opaque: bool
    """It may answer any path, so that it is asked for those that nobody else knows."""
    is_wrapping: bool = False
    """It has middleware, which is to see the requests for our own routes, too."""

    def has(self, method: str, path: str, *, is_socket: bool) -> bool:
        """Whether a request is the application's before it is ours."""
        return any(
            not each.is_weak and each.takes(method) and each.matches(path, is_socket=is_socket)
            for each in self.routes
        )

    def may_have(self, path: str, *, is_socket: bool) -> bool:
        """Whether the application is to answer a path that is not ours.

        With or without a slash at the end: it may redirect from one to the other.
        """
        spellings = {path, path.rstrip("/"), f"{path}/"}
        return self.is_opaque or any(
            each.matches(one, is_socket=is_socket) for each in self.routes for one in spellings
        )


def read_table(described: Mapping[str, Any]) -> Table:
    """Read what the graphs process says."""
    routes = [
        CustomRoute(
            re.compile(each["pattern"]),
            None if each["methods"] is None else frozenset(each["methods"]),
            each["is_socket"],
            each["is_weak"],
        )
        for each in described["routes"]
    ]
    return Table(tuple(routes), described["is_opaque"], described["is_wrapping"])


class Tables:
    """The table of the graphs process that runs now; asked for once from each."""

    def __init__(self, graphs: GraphsClient, socket_path: str) -> None:
        self._graphs = graphs
        self._socket_path = socket_path
        self._table: Table | None = None
        self._process: tuple[int, int] | None = None

    def find(self) -> Table:
        """The table.

        Raises:
            GraphsUnavailable: there is none yet, and nobody to ask.
        """
        process = self.find_process()
        if self._table is None or (process is not None and process != self._process):
            # Another socket: the process was started again, perhaps with other code.
            try:
                self._table = read_table(self._graphs.custom_routes())
            except Unavailable:
                if self._table is None:
                    raise
                # The last one will do until its successor can be asked.
                return self._table
            self._process = process
        return self._table

    def find_process(self) -> tuple[int, int] | None:
        """What tells one process's socket from its successor's; None while there is none."""
        try:
            found = os.stat(self._socket_path)  # noqa: PTH116 (a path that never changes its form)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns
