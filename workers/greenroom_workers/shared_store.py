"""Long-term memory for runs on many loops: one store on the I/O loop does the work."""

import asyncio
from collections.abc import Iterable

from langgraph.store.base import BaseStore, Op, Result


class SharedStore(BaseStore):
    """Hands every batch of operations to a store that lives on another loop."""

    supports_ttl = True

    def __init__(self, store: BaseStore, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self.loop = loop
        # The base class reads its defaults of ttl and refresh from here.
        self.ttl_config = store.ttl_config

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """See the base class; for sync code in a run's own threads."""
        return asyncio.run_coroutine_threadsafe(self.store.abatch(ops), self.loop).result()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """See the base class."""
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self.store.abatch(ops), self.loop)
        )
