"""What a run shows to the clients of generation 2: its parts encoded, numbered and ended."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from langgraph.pregel import Pregel

from greenroom import wire
from greenroom.queue.life import Claim, EndEvents, Outcome
from greenroom.queue.states import RunStatus
from greenroom.signals.keys import Keys
from greenroom.streaming.protocol_encoder import INTERRUPT, NATIVE_MODES, ProtocolEncoder
from greenroom.streaming.replay import milliseconds
from greenroom_workers.inputs import graph_config, graph_context, graph_input
from greenroom_workers.io_thread import IoThread
from greenroom_workers.numbered_events import NumberedEvents
from greenroom_workers.outcomes import describe_error

# langgraph's own switch of `astream_events(version="v3")`: models stream content blocks.
CONTENT_BLOCKS = "__pregel_stream_messages_v2"


class ProtocolRun:
    """One run's events of generation 2."""

    def __init__(
        self, io: IoThread, keys: Keys, claim: Claim, last_seq: int, on_lost: Callable[[], None]
    ) -> None:
        """Emit nothing yet.

        Args:
            last_seq: of the runs before on this thread.
        """
        self.events = NumberedEvents(
            io,
            keys,
            claim.lease,
            milliseconds(claim.started_at),
            last_seq,
            on_lost,
            is_first=claim.is_first,
        )
        self.encoder = ProtocolEncoder(
            claim.lease.run_id,
            claim.graph_id,
            self.events.emit,
            lambda error: describe_error(error)["message"],
            is_native=is_native(claim),
        )

    async def begin(self) -> None:
        """Tell that the run has begun, unless an earlier attempt has."""
        await self.events.resume()
        if not self.events.has_begun:
            self.encoder.begin()

    def part(self, namespace: tuple[str, ...], mode: str, data: Any) -> None:
        """Emit what one part of the graph's stream says."""
        self.encoder.part(namespace, mode, data)
        if mode == "values":
            # The checkpoint, if there is one, is the very next part: nothing else comes in between.
            asyncio.get_running_loop().call_soon(self.encoder.release)

    def end(self, outcome: Outcome) -> EndEvents:
        """The last events of a run that ends like this."""
        event, error = "completed", None
        if outcome.status in {RunStatus.ERROR, RunStatus.TIMEOUT}:
            event, error = "failed", (outcome.error or {}).get("message", "")
        elif outcome.status is RunStatus.INTERRUPTED or outcome.thread_status == "interrupted":
            event = "interrupted"
        waiting = wire.loads(outcome.interrupts).values()
        asked = [one for interrupts in waiting for one in interrupts]
        return self.events.end(self.encoder.end(event, asked, error))

    def end_rolled_back(self) -> EndEvents:
        """The last event of a run that is removed: nobody can replay it."""
        return self.events.end(self.encoder.end("interrupted", []))


def is_native(claim: Claim) -> bool:
    """Whether the run was started by a client of generation 2."""
    return bool(claim.kwargs.get("protocol"))


async def native_parts(
    graph: Pregel[Any, Any, Any, Any], claim: Claim
) -> AsyncGenerator[tuple[tuple[str, ...], str, Any]]:
    """Yield (namespace, mode, data) of everything that readers of generation 2 may ask for."""
    kwargs = claim.kwargs
    config = graph_config(claim)
    config["configurable"] = {**config["configurable"], CONTENT_BLOCKS: True}
    # Its types know neither the mode of tools nor our lists.
    astream: Any = graph.astream
    stream = astream(
        graph_input(kwargs),
        config,
        context=graph_context(graph, kwargs["context"]),
        stream_mode=list(NATIVE_MODES),
        interrupt_before=kwargs["interrupt_before"],
        interrupt_after=kwargs["interrupt_after"],
        durability=kwargs["durability"],
        subgraphs=True,
        version="v2",
    )
    async for part in stream:
        data = part["data"]
        if (interrupts := part.get("interrupts")) and isinstance(data, dict):
            data = {**data, INTERRUPT: interrupts}
        yield tuple(part["ns"]), part["type"], data
