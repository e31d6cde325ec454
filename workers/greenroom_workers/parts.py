"""What a graph streams, part by part."""

from collections.abc import AsyncGenerator
from typing import Any

from langgraph.pregel import Pregel

from greenroom.queue.life import Claim
from greenroom.streaming.encoder import Encoder, graph_modes
from greenroom_workers.inputs import graph_config, graph_context, graph_input


async def parts_of(
    graph: Pregel[Any, Any, Any, Any], claim: Claim, encoder: Encoder
) -> AsyncGenerator[tuple[tuple[str, ...], str, Any]]:
    """Yield (namespace, mode, data) of everything that the graph streams."""
    kwargs = claim.kwargs
    options: dict[str, Any] = {
        "context": graph_context(graph, kwargs["context"]),
        "stream_mode": graph_modes(kwargs["stream_mode"]) or ["values"],
        "interrupt_before": kwargs["interrupt_before"],
        "interrupt_after": kwargs["interrupt_after"],
        "durability": kwargs["durability"],
        "subgraphs": bool(kwargs["subgraphs"]),
    }
    given, config = graph_input(kwargs), graph_config(claim)
    if "events" in kwargs["stream_mode"]:
        stream = graph.astream_events(given, config, version="v2", **options)
        async for event in stream:
            is_root = event["run_id"] == str(claim.lease.run_id)
            if is_root and event["event"] == "on_chain_stream":
                yield split_part(event["data"]["chunk"], has_namespace=options["subgraphs"])
            else:
                encoder.callback(event)
        return
    async for part in graph.astream(given, config, **options):
        yield split_part(part, has_namespace=options["subgraphs"])


def split_part(part: Any, *, has_namespace: bool) -> tuple[tuple[str, ...], str, Any]:
    """Take langgraph's tuple apart: with subgraphs it begins with the namespace."""
    if has_namespace:
        namespace, mode, data = part
        return tuple(namespace), mode, data
    mode, data = part
    return (), mode, data
