"""`client.threads.stream()` of the Python client."""

import asyncio
import contextlib
from typing import Any, Self

from deployment import Deployment
from langgraph_sdk import get_client, get_sync_client

SUM = {"messages": [{"role": "user", "content": "add 1 2"}]}


async def test_values_messages_tools_and_output(server: Deployment) -> None:
    """All that a run tells, as it comes."""
    client = get_client(url=server.url)
    async with client.threads.stream(assistant_id="chat") as thread:
        await thread.run.start(input=SUM)
        found: dict[str, list[Any]] = {"values": [], "messages": [], "tool_calls": []}
        async for channel, item in thread.interleave_projections(list(found)):
            found[channel].append(item)
        output = await thread.output.with_timeout(30)
        said = [str(await message.text) for message in found["messages"]]
    assert said == ["", "the sum is 3"]
    assert [(call.name, call.input) for call in found["tool_calls"]] == [("add", {"a": 1, "b": 2})]
    assert len(found["values"][-1]["messages"]) == len(output["messages"]) == 4


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
    """In a run that asks nothing.

    The client hears of questions on a connection of its own, and one ends its search at once.
    """
    client = get_client(url=server.url)
    async with client.threads.stream(assistant_id="nested_ask") as thread:
        await thread.run.start(input={"question": "why?", "answer": "because"})
        found = [nested async for nested in thread.subgraphs]
    assert [nested.graph_name for nested in found] == ["child"]


class Switchboard:
    """Connects to one web process after another."""

    def __init__(self, *urls: str) -> None:
        self.ports = [int(url.rpartition(":")[2]) for url in urls]
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._connect, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        self.switch()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.ports[0])
        self.writers += [writer, back]
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    def switch(self) -> None:
        """Cut every connection; the next ones lead to the next process."""
        self.ports.append(self.ports.pop(0))
        for writer in self.writers:
            writer.transport.abort()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until either side ends."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_stream_goes_on_at_another_web_process(deployment: Deployment) -> None:
    """Its connection breaks again and again amid a run: the reader notices nothing."""
    urls = [deployment.start_web(), deployment.start_web()]
    deployment.start_worker()
    async with Switchboard(*urls) as switchboard:
        client = get_client(url=switchboard.url)
        async with client.threads.stream(assistant_id="steps") as thread:
            await thread.run.start(input={"n": 20, "seconds": 0.1})
            lengths = []
            async for values in thread.values:
                lengths.append(len(values.get("trail", [])))
                if lengths[-1] in {3, 8, 13}:
                    switchboard.switch()
            output = await thread.output.with_timeout(30)
    assert output["trail"] == list(range(20))
    assert lengths[lengths.index(1) :] == list(range(1, 21))


def test_the_sync_client_reads_the_same(server: Deployment) -> None:
    """Values and output."""
    client = get_sync_client(url=server.url)
    with client.threads.stream(assistant_id="echo") as thread:
        thread.run.start(input={"text": "hi"})
        values = list(thread.values)
        assert thread.output["trail"] == ["hi"]
    assert values[-1]["trail"] == ["hi"]
