"""The garbage collector of a process that has imported much and is busy."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

THRESHOLDS: Final = (10_000, 10, 10)
"""Of Python's 700, 10, 10 the first: a run makes some thousand objects that go without its help."""


@contextmanager
def no_collector() -> Iterator[None]:
    """Keep it from work while modules are imported.

    They stay; looking at them again and again took a sixth of the CPU.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def give_back() -> None:
    """Return what imports have freed to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def calm_collector() -> None:
    """Have it pass over all that exists now, which stays, and look less often at what comes.

    Once, when everything is imported. In a worker that executes short runs it took a sixth of the
    CPU before.
    """
    gc.collect()
    gc.freeze()
    give_back()
    gc.set_threshold(*THRESHOLDS)
