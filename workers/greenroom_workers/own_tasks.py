"""The tasks and threads of one run, and what it leaves of them at work."""

import asyncio
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

from greenroom_workers.active_run import ActiveRun
from greenroom_workers.run_loop import RunLoop

MOST_REMEMBERED = 1000
"""Tasks of one run between two looks at which of them are gone."""


class OwnTasks:
    """A loop's tasks. asyncio.all_tasks goes through those of every loop in the process."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[asyncio.Task[Any]]] = []
        self._limit = MOST_REMEMBERED

    def make(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        """Make a task: the loop's task factory."""
        task = asyncio.Task(coroutine, loop=loop, **options)
        if len(self._made) >= self._limit:
            self._made = [made for made in self._made if made() is not None]
            self._limit = max(MOST_REMEMBERED, 2 * len(self._made))
        self._made.append(weakref.ref(task))
        return task

    def unfinished(self) -> set[asyncio.Task[Any]]:
        """Those that have not ended; forgets all."""
        made, self._made = self._made, []
        return {task for known in made if (task := known()) is not None and not task.done()}


@dataclass(eq=False)
class Stray:
    """What a run left at work when it ended: tasks that refuse to end, or threads of sync nodes."""

    active: ActiveRun
    loop: RunLoop
    since: float = field(default_factory=time.monotonic)
    was_broken_into: bool = False
