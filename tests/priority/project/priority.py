"""What threads' metadata ask for, and answers that go wrong."""

import asyncio
from typing import Any

from langgraph_sdk import Priority, PriorityContext

priority = Priority()


@priority.assign
async def assign(ctx: PriorityContext) -> Any:
    """`priority` and `group` of the thread's metadata; `say` of the run's tells what to do else."""
    match ctx.run_metadata.get("say"):
        case "raise":
            raise RuntimeError("secret detail of the owner's code")
        case "sleep":
            await asyncio.sleep(60)
        case "nothing":
            return None
        case "tell":
            return {"fairness_group": describe(ctx)}
        case {"answer": answer}:
            return answer
    if ctx.cron_id is not None:
        return {"priority": 2, "fairness_group": f"cron {ctx.cron_id}"}
    metadata = ctx.thread_metadata
    return {"priority": metadata.get("priority"), "fairness_group": metadata.get("group")}


def describe(ctx: PriorityContext) -> str:
    """What the handler was told, in one line."""
    return "|".join(
        [
            repr(ctx.user.identity),
            repr(list(ctx.permissions)),
            "thread" if ctx.thread_id else "none",
            ctx.graph_id,
            "assistant" if ctx.assistant_id else "none",
            str(ctx.assistant_metadata.get("created_by")),
            str(ctx.cron_id),
        ]
    )
