"""What a web process does when it is told to stop, so that open streams end themselves."""

from collections.abc import Callable

on_stop: list[Callable[[], None]] = []


def register(callback: Callable[[], None]) -> None:
    """Have `callback` called once at the stop. It must not block: it may signal, not wait."""
    on_stop.append(callback)


def run_all() -> None:
    """Call what was registered, in that order."""
    for callback in on_stop:
        callback()
