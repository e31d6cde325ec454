"""Assistants that runs were made from of late, so that a run need not read its own again.

What is kept here may be old: whoever makes a run from it says how old, and the statement that lets
the run in compares (`admit_run`). So nobody has to be told of changes, whoever makes them.
"""

from typing import Final

from greenroom.assistants.queries import ForRun, find_for_run
from greenroom.database.engine import Database
from greenroom.database.scope import Scope

MOST_KEPT: Final = 500


class KnownAssistants:
    """Those of one web process, by the key that requests name them with."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._kept: dict[str, ForRun] = {}

    def find(self, key: str) -> ForRun | None:
        """An assistant as it was when somebody last looked, or as it is now; None: there is none.

        Args:
            key: its id, or the id of a graph, which means that graph's own assistant.
        """
        return self._kept.get(key) or self.look(key)

    def look(self, key: str, scope: Scope = None) -> ForRun | None:
        """An assistant as it is now, if the caller may see it; only what anyone may see is kept."""
        with self.database.direct() as connection:
            found = find_for_run(connection, key, scope)
        if scope is not None:
            return found
        self._kept.pop(key, None)
        if found is not None:
            self.keep(key, found)
        return found

    def keep(self, key: str, found: ForRun) -> None:
        """Remember an assistant; the one that was looked for longest ago makes room."""
        while len(self._kept) >= MOST_KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[key] = found
