"""Processes for suspects: runs that were lost with their worker time and again, beside others.

Whichever of them takes its process down is alone there, and so is known; the rest come to their
ends without being charged for it.
"""

import signal
import subprocess
import threading

from greenroom.cli.environment import PYTHON
from greenroom.cli.processes import has_ended, kill_group, spawn
from greenroom.logs import get_logger

log = get_logger(__name__)

ARGV = (*PYTHON, "greenroom_workers.process", "--apart")
LARGEST = 2
"""Processes at once, of each worker: each loads the graphs anew."""


class Isolation:
    """Starts such processes on demand.

    `want` from any thread; the rest from the main thread, because the kernel ends a child with the
    thread that started it.
    """

    def __init__(self, nudge: threading.Event) -> None:
        """Set `nudge` when `look_after` has something to do."""
        self._nudge = nudge
        self._wanted = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def want(self, suspects: int) -> None:
        """Say how many suspects wait."""
        self._wanted = suspects
        if suspects:
            self._nudge.set()

    @property
    def is_busy(self) -> bool:
        """Whether there are processes that may end."""
        return bool(self._processes)

    def look_after(self) -> bool:
        """Reap what has ended, start what is wanted; tells whether one has ended."""
        ended = [one for one in self._processes if has_ended(one)]
        for process in ended:
            kill_group(process)
            code = process.wait()
            self._processes.remove(process)
            if code:
                log.warning("suspect took its process down", pid=process.pid, exit_code=code)
        wanted, self._wanted = min(self._wanted, LARGEST) - len(self._processes), 0
        for _ in range(wanted):
            try:
                self._processes.append(spawn(ARGV, death_signal=signal.SIGTERM))
            except OSError as error:
                log.warning("suspects must wait", error=str(error))
                break
        return bool(ended)

    def stop(self, seconds: float) -> None:
        """Let the processes hand their runs back."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                kill_group(process)
                process.wait()
