"""Children by way of a parent that does not stay: it imports what they share, forks them, and ends.

While it lived it would hold memory that nobody uses. What it leaves is ours (prctl(2),
PR_SET_CHILD_SUBREAPER), to be supervised as if we had started it.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Mapping

from greenroom.cli.processes import Forked, fork

PR_SET_CHILD_SUBREAPER = 36


class Adoption:
    """The children of a passing parent, which begins at once; there is one at a time."""

    def __init__(self, call: Callable[[int, int], None], environment: Mapping[str, str]) -> None:
        """Begin.

        Args:
            call: what the passing parent runs, with our process id, to be given to `fork` as the
                heir's, and a file to write to: a line with the name and the id of each child.
        Raises:
            OSError: there is no room for a process.
        """
        set_subreaper(is_one=True)
        self._told, telling = os.pipe()
        heir_pid = os.getpid()
        self._parent = fork(
            lambda: call(heir_pid, telling),
            "nursery",
            death_signal=signal.SIGTERM,
            environment=environment,
            kept_fd=telling,
        )
        os.close(telling)
        self._born: dict[str, Forked] | None = None

    def take(self, name: str) -> Forked | None:
        """The child of that name, once; None: there is none. Waits until all are born."""
        if self._born is None:
            self._born = self._await()
        return self._born.pop(name, None)

    def _await(self) -> dict[str, Forked]:
        with os.fdopen(self._told) as pipe:
            told = pipe.read()
        # They are ours as soon as it has ended, and from then on no others shall be.
        self._parent.wait()
        set_subreaper(is_one=False)
        return {name: Forked(int(pid)) for name, pid in map(str.split, told.splitlines())}


def set_subreaper(*, is_one: bool) -> None:
    """Have the kernel give us, or no longer give us, what our descendants leave behind."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(is_one))
