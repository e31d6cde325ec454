"""`client.threads.stream()` of the Python client."""

import asyncio
from typing import Any

import pytest
from deployment import Deployment
from langgraph_sdk import get_client, get_sync_client

SUM = {"messages": [{"role": "user", "content": "add 1 2"}]}


async def test_values_messages_tools_and_output(server: Deployment) -> None:
    """All that a run tells, side by side."""
    client = get_client(url=server.url)
    async with client.threads.stream(assistant_id="chat") as thread:
        await thread.run.start(input=SUM)

        async def texts() -> list[str]:
            return [str(await message.text) async for message in thread.messages]

        async def calls() -> list[tuple[str, Any]]:
            return [(call.name, call.input) async for call in thread.tool_calls]

        said, called = await asyncio.gather(texts(), calls())
        output = await thread.output.with_timeout(30)
    assert said == ["", "the sum is 3"]
    assert called == [("add", {"a": 1, "b": 2})]
    assert len(output["messages"]) == 4


async def test_an_interrupt_is_read_and_answered(server: Deployment) -> None:
    """Its value arrives, wherever it was asked."""
    client = get_client(url=server.url)
    async with client.threads.stream(assistant_id="nested_ask") as thread:
        await thread.run.start(input={"question": "why?"})
        async for _ in thread.values:
            pass
        (asked,) = thread.interrupts
        assert asked["value"] == {"ask": "why?"}
        assert asked["namespace"][0].startswith("child:")
        await thread.run.respond("because", interrupt_id=asked["interrupt_id"])
        output = await thread.output.with_timeout(30)
    assert output["answer"] == "so: because"


async def test_nested_graphs_are_found(server: Deployment) -> None:
    """With how they ended."""
    client = get_client(url=server.url)
    async with client.threads.stream(assistant_id="nested_ask") as thread:
        await thread.run.start(input={"question": "why?"})
        found = [nested async for nested in thread.subgraphs]
    assert [nested.graph_name for nested in found] == ["child"]


@pytest.mark.timeout(120)
async def test_a_stream_goes_on_at_another_web_process(deployment: Deployment) -> None:
    """The web process is replaced amid a run: the reader notices nothing."""
    url = deployment.start_web()
    deployment.start_worker()
    client = get_client(url=url)
    async with client.threads.stream(assistant_id="steps") as thread:
        await thread.run.start(input={"n": 30, "seconds": 0.1})
        seen: list[Any] = []
        async for event in thread.events:
            seen.append(event)
            if event["method"] == "custom" and event["params"]["data"]["step"] == 5:
                await asyncio.to_thread(deployment.restart_web, url)
            params = event["params"]
            if event["method"] == "lifecycle" and params["data"]["event"] == "completed":
                break
    steps = [one["params"]["data"]["step"] for one in seen if one["method"] == "custom"]
    assert steps == list(range(30))
    numbers = [one["seq"] for one in seen if "seq" in one]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_sync_client_reads_the_same(server: Deployment) -> None:
    """Values and output."""
    client = get_sync_client(url=server.url)
    with client.threads.stream(assistant_id="echo") as thread:
        thread.run.start(input={"text": "hi"})
        values = list(thread.values)
        assert thread.output["trail"] == ["hi"]
    assert values[-1]["trail"] == ["hi"]
