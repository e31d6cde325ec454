"""Closed loops of clients, and what they tell."""

import asyncio
import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

Figures = dict[str, float]
FEWEST = 5
"""Samples that a loop takes also when its time is over."""


async def closed_loop(
    clients: int, count: int, seconds: float, one: Callable[[int, int], Awaitable[bool]]
) -> tuple[list[float], float]:
    """Have each client ask again as soon as it is answered.

    Args:
        count: requests in all.
        seconds: when to stop asking, though there is more to ask.
        one: does request `number` as client `client`; False: it failed, and is no sample.
    Returns:
        The seconds of each request, and of all together.
    """
    taken: list[float] = []
    numbers = iter(range(count))
    start = perf_counter()

    async def work(client: int) -> None:
        for number in numbers:
            if perf_counter() > start + seconds and len(taken) >= max(clients, FEWEST):
                return
            begin = perf_counter()
            if await one(client, number):
                taken.append(perf_counter() - begin)

    await asyncio.gather(*(work(client) for client in range(clients)))
    return taken, perf_counter() - start


def milliseconds(prefix: str, seconds: Sequence[float]) -> Figures:
    """Median and 99th percentile; nothing when there is no sample."""
    if not seconds:
        return {}
    return {
        f"{prefix}.p50_ms": 1000 * statistics.median(seconds),
        f"{prefix}.p99_ms": 1000 * quantile(seconds, 0.99),
        f"{prefix}.samples": len(seconds),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Find the value that `share` of all do not exceed: one that was measured, no mean of two."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
