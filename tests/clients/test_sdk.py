"""The official Python client, unmodified, where our promises go beyond single requests."""

from threading import Event, Thread

import httpx
from deployment import Deployment, new_thread
from langgraph_sdk import get_client, get_sync_client


async def test_tokens_arrive_through_the_sdk(server: Deployment) -> None:
    """Streaming, state and history of one run."""
    client = get_client(url=server.url)
    thread = await client.threads.create()
    names = [
        part.event
        async for part in client.runs.stream(
            thread["thread_id"], "steps", input={"n": 2}, stream_mode=["custom", "updates"]
        )
    ]
    assert names == ["metadata", "custom", "updates", "custom", "updates"]
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"]["trail"] == [0, 1]
    assert len(await client.threads.get_history(thread["thread_id"])) == 4
    await client.aclose()


def test_a_client_survives_the_restart_of_the_web_process(deployment: Deployment) -> None:
    """Its stream is cut when the web process stops; it reconnects and misses nothing."""
    url = deployment.start_web()
    deployment.start_worker()
    seen: list[int] = []
    with httpx.Client(base_url=url) as http:
        thread_id = new_thread(http)
    client = get_sync_client(url=url)

    has_begun = Event()

    def follow() -> None:
        body = {"n": 8, "seconds": 0.25}
        for part in client.runs.stream(
            thread_id, "steps", input=body, stream_mode="custom", stream_resumable=True
        ):
            if part.event == "custom":
                seen.append(part.data["step"])
                has_begun.set()

    following = Thread(target=follow)
    following.start()
    assert has_begun.wait(60)
    deployment.restart_web(url)
    following.join(timeout=60)
    assert seen == list(range(8))
    client.close()
    deployment.assert_consistent()
