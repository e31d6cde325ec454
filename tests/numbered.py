"""A reader of generation 2 by hand: one command, one stream of numbered events."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

CHANNELS = [
    *("values", "updates", "messages", "tools", "lifecycle", "input", "tasks", "custom"),
    "checkpoints",
]
ENDS = {"completed", "failed", "interrupted"}
Event = dict[str, Any]


def command(http: httpx.Client, thread_id: str, method: str, **params: Any) -> dict[str, Any]:
    """The answer to a command."""
    body = {"id": 1, "method": method, "params": params}
    answer = http.post(f"/threads/{thread_id}/commands", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def start_run(http: httpx.Client, thread_id: str, graph: str, **params: Any) -> str:
    """Start a run: its id."""
    answer = command(http, thread_id, "run.start", assistant_id=graph, **params)
    assert answer["type"] == "success", answer
    run_id: str = answer["result"]["run_id"]
    return run_id


def respond(http: httpx.Client, thread_id: str, asked: Event, answer: Any) -> dict[str, Any]:
    """Answer an interrupt."""
    interrupt_id = asked["params"]["data"]["interrupt_id"]
    return command(http, thread_id, "input.respond", interrupt_id=interrupt_id, response=answer)


def listen(
    http: httpx.Client, thread_id: str, channels: list[str] | None = None, **more: Any
) -> Iterator[Event]:
    """Events for as long as one asks for more; the stream is closed with the iterator."""
    body = {"channels": channels or CHANNELS, **more}
    with http.stream("POST", f"/threads/{thread_id}/stream/events", json=body) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: "):
                event: Event = json.loads(line.removeprefix("data: "))
                assert event["type"] == "event", event
                yield event


def read_runs(
    http: httpx.Client,
    thread_id: str,
    runs: int = 1,
    channels: list[str] | None = None,
    **more: Any,
) -> list[Event]:
    """Events up to the end of so many runs."""
    events = []
    for event in listen(http, thread_id, channels, **more):
        events.append(event)
        runs -= is_end(event)
        if not runs:
            break
    return events


def is_end(event: Event) -> bool:
    """The end of a run's root graph."""
    params = event["params"]
    is_root = event["method"] == "lifecycle" and not params["namespace"]
    return is_root and params["data"]["event"] in ENDS


def numbers(events: list[Event]) -> list[int]:
    """The numbers of those that have one."""
    return [event["seq"] for event in events if "seq" in event]


def data_of(events: list[Event], method: str) -> list[Any]:
    """What the events of one method tell."""
    return [event["params"]["data"] for event in events if event["method"] == method]


def lifecycle(events: list[Event]) -> list[str]:
    """What became of the root graph."""
    roots = [event for event in events if not event["params"]["namespace"]]
    return [told["event"] for told in data_of(roots, "lifecycle")]
