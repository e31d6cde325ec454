"""What a web process does when it is told to stop, so that open streams end themselves."""

from collections.abc import Callable
from threading import Event

on_stop: list[Callable[[], None]] = []
_stop = Event()


def register(callback: Callable[[], None]) -> None:
    """Have `callback` called once at the stop, or now if that is past.

    It must not block: it may signal, not wait.
    """
    on_stop.append(callback)
    if _stop.is_set():
        callback()


def run_all() -> None:
    """Call what was registered, in that order."""
    _stop.set()
    for callback in on_stop:
        callback()
