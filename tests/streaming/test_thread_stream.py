"""The stream of a whole thread."""

from threading import Thread

import httpx
from deployment import Deployment, events_of, join, new_thread, start


def test_a_state_update_is_shown_to_those_who_ask_for_it(
    server: Deployment, http: httpx.Client
) -> None:
    """`stream_mode=state_update` tells the whole new state, and no run's events."""
    thread_id = new_thread(http)
    join(http, start(http, thread_id, "echo", input={"text": "before"}))
    seen = []
    path = f"/threads/{thread_id}/stream?stream_mode=state_update"
    with server.client() as own, own.stream("GET", path) as response:

        def act() -> None:
            with server.client() as other:
                join(other, start(other, thread_id, "echo", input={"text": "run"}))
                body = {"values": {"text": "edited"}, "as_node": "node"}
                assert other.post(f"/threads/{thread_id}/state", json=body).status_code == 200

        acting = Thread(target=act)
        acting.start()
        for event in events_of(response):
            seen.append(event)
            break
        acting.join()
    ((name, data, event_id),) = seen
    assert name == "state_update"
    assert data["thread_id"] == thread_id
    assert data["state"]["values"]["text"] == "edited"
    assert event_id


def test_a_thread_stream_resumes_between_two_runs(server: Deployment, http: httpx.Client) -> None:
    """With Last-Event-ID the kept events after it come first, then the live ones, none twice."""
    thread_id = new_thread(http)
    for text in "ab":
        join(http, start(http, thread_id, "echo", input={"text": text}, stream_resumable=True))

    def read(last_event_id: str, count: int) -> list[tuple[str, object, str | None]]:
        headers = {"last-event-id": last_event_id}
        with (
            server.client() as own,
            own.stream("GET", f"/threads/{thread_id}/stream", headers=headers) as response,
        ):
            events = events_of(response)
            return [next(events) for _ in range(count)]

    whole = read("-", 8)
    assert [name for name, _, _ in whole] == ["metadata", "values", "values", "metadata"] * 2
    for position, (_, _, event_id) in enumerate(whole[:-1]):
        assert read(str(event_id), 7 - position) == whole[position + 1 :]
