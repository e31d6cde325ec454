"""The thread event protocol, against real processes."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment, events_of, get, join, new_thread, start, until
from numbered import (
    command,
    data_of,
    is_end,
    lifecycle,
    listen,
    numbers,
    read_runs,
    respond,
    start_run,
)

SUM = {"messages": [{"role": "user", "content": "add 1 2"}]}


def say(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def kept(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """As clients do: each event once, in the order of arrival."""
    return {event["event_id"]: event for event in reversed(events)}


def test_dropping_a_stream_at_every_event_loses_nothing(http: httpx.Client) -> None:
    """Whatever was read, the rest follows `since`, with the same numbers and ids."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "chat", input=SUM)
    whole = read_runs(http, thread_id)
    assert numbers(whole) == list(range(1, len(numbers(whole)) + 1))
    for seen in range(len(whole)):
        first = whole[:seen]
        cursor = max(numbers(first), default=0)
        rest = read_runs(http, thread_id, since=cursor)
        assert numbers(first) + numbers(rest) == numbers(whole)
        assert kept(first + rest) == kept(whole)


def test_a_reader_that_comes_back_after_each_event_misses_none(
    server: Deployment, http: httpx.Client
) -> None:
    """The same while the run is on its way."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "slow_chat", input=say("to be or not to be"))
    seen: list[dict[str, Any]] = []
    while not seen or not is_end(seen[-1]):
        with server.client() as own:
            stream = listen(own, thread_id, since=max(numbers(seen), default=0))
            seen.append(next(stream))
            while "seq" not in seen[-1]:
                seen.append(next(stream))
            stream.close()
    assert seen == read_runs(http, thread_id)


def test_all_runs_of_a_thread_share_one_row_of_numbers(http: httpx.Client) -> None:
    """Runs of both generations, in order, the same for each reader and filter."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "chat", input=say("one"))
    read_runs(http, thread_id)
    join(http, start(http, thread_id, "chat", input=say("two"), stream_mode=["values", "updates"]))
    start_run(http, thread_id, "chat", input=say("three"))
    whole = read_runs(http, thread_id, runs=3)
    assert numbers(whole) == list(range(1, len(numbers(whole)) + 1))
    assert lifecycle(whole) == ["running", "completed"] * 3
    ends = read_runs(http, thread_id, runs=3, channels=["lifecycle"])
    assert ends == [event for event in whole if event["method"] == "lifecycle"]
    nodes = [event["params"].get("node") for event in whole if event["method"] == "updates"]
    assert nodes == [None, "model", None]
    last = data_of(whole, "values")[-1]["messages"]
    assert [message["type"] for message in last] == ["human", "ai"] * 3
    assert not any("additional_kwargs" in message for message in last)


def test_a_run_of_generation_1_shows_what_its_modes_bring(http: httpx.Client) -> None:
    """Wrapped as its clients know it; questions too, but neither messages nor tools."""
    thread_id = new_thread(http)
    # Somebody looks at the thread before the run.
    next(listen_briefly(http, thread_id), None)
    modes = ["values", "custom", "tasks", "messages-tuple"]
    body = {"input": SUM, "stream_mode": modes, "stream_subgraphs": True}
    join(http, start(http, thread_id, "chat", **body))
    events = read_runs(http, thread_id)
    assert {event["method"] for event in events} == {"lifecycle", "values", "custom", "tasks"}
    progress = {"name": "progress", "payload": {"messages": 1}}
    assert data_of(events, "custom")[0] == {"payload": progress}
    join(http, start(http, thread_id, "two_questions", input={}, stream_mode=["values"]))
    events = read_runs(http, thread_id, since=numbers(events)[-1])
    assert lifecycle(events) == ["running", "interrupted"]
    assert len(data_of(events, "input.requested")) == 2


def listen_briefly(http: httpx.Client, thread_id: str) -> Iterator[str]:
    """Open a stream and leave it."""
    body = {"channels": ["lifecycle"]}
    with http.stream("POST", f"/threads/{thread_id}/stream/events", json=body) as response:
        assert response.status_code == 200
        yield ""


def test_a_failure_is_told_without_secrets(http: httpx.Client) -> None:
    """As everywhere else: the class is no secret, its text may be."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "hostile", input={"kind": "raise"})
    events = read_runs(http, thread_id)
    assert lifecycle(events) == ["running", "failed"]
    assert data_of(events, "lifecycle")[-1]["error"] == "An internal error occurred"
    assert "hunter2" not in str(events)
    (failed,) = [told["error"] for told in data_of(events, "tasks") if told.get("error")]
    assert failed["error"] == "Odd"


def test_a_tool_call_is_told_from_start_to_result(http: httpx.Client) -> None:
    """Content blocks of the call, events of the tool, its result as a message of the call."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "chat", input=SUM)
    events = read_runs(http, thread_id)
    assert [told["event"] for told in data_of(events, "tools")] == ["tool-started", "tool-finished"]
    started, finished = data_of(events, "tools")
    assert started["tool_call_id"] == finished["tool_call_id"] == "call_1"
    assert started["input"] == {"a": 1, "b": 2}
    assert finished["output"]["content"] == "3"
    mirrored = [event for event in events if event["params"]["namespace"] == ["tools:call_1"]]
    assert mirrored[0]["params"]["data"]["role"] == "tool"
    custom = data_of(events, "custom")
    assert custom == data_of(
        read_runs(http, thread_id, 1, ["custom:progress", "lifecycle"]), "custom"
    )
    assert custom[0] == {"name": "progress", "payload": {"messages": 1}}


def test_a_checkpoint_comes_with_its_values(http: httpx.Client) -> None:
    """Front ends branch from it: it names the state that the next event shows."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "chat", input=say("hello"))
    events = read_runs(http, thread_id)
    history = http.post(f"/threads/{thread_id}/history", json={"limit": 10}).json()
    by_id = {state["checkpoint"]["checkpoint_id"]: state for state in history}
    pairs = [
        (event, events[position + 1])
        for position, event in enumerate(events)
        if event["method"] == "checkpoints"
    ]
    assert pairs
    for checkpoint, values in pairs:
        state = by_id[checkpoint["params"]["data"]["id"]]
        shown = values["params"]["data"]["messages"]
        assert values["method"] == "values"
        assert [one["id"] for one in shown] == [one["id"] for one in state["values"]["messages"]]
        parent = checkpoint["params"]["data"]["parent_id"]
        assert parent == state["parent_checkpoint"]["checkpoint_id"]


def test_messages_of_parallel_models_can_be_told_apart(http: httpx.Client) -> None:
    """Each event names its message."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "two_voices", input={})
    texts: dict[str, str] = {}
    for told in data_of(read_runs(http, thread_id), "messages"):
        if told["event"] == "content-block-delta":
            texts[told["id"]] = texts.get(told["id"], "") + told["delta"]["text"]
    assert sorted(texts.values()) == [
        "you said five six seven eight",
        "you said one two three four",
    ]


def test_a_question_from_a_nested_graph_is_asked_and_answered(http: httpx.Client) -> None:
    """In its namespace, when the thread already waits; a second answer finds it answered."""
    thread_id = str(uuid4())
    stream = listen(http, thread_id)
    with httpx.Client(base_url=str(http.base_url), timeout=60) as other:
        start_run(other, thread_id, "nested_ask", input={"question": "why?"})
        asked = next(event for event in stream if event["method"] == "input.requested")
        assert other.get(f"/threads/{thread_id}").json()["status"] == "interrupted"
        assert asked["params"]["namespace"][0].startswith("child:")
        assert asked["params"]["data"]["payload"] == {"ask": "why?"}
        with ThreadPoolExecutor(2) as pool:
            answers = list(
                pool.map(lambda text: respond_alone(http, thread_id, asked, text), ("a", "b"))
            )
        assert sorted(answer["type"] for answer in answers) == ["error", "success"]
        refused = next(answer for answer in answers if answer["type"] == "error")
        assert refused["error"] == "no_such_interrupt"
    rest = []
    for event in stream:
        rest.append(event)
        if lifecycle([event]) == ["completed"]:
            break
    assert lifecycle(rest) == ["interrupted", "running", "completed"]
    assert data_of(rest, "values")[-1]["answer"] in {"so: a", "so: b"}
    again = respond(http, thread_id, asked, "late")
    assert again["error"] == "no_such_interrupt"


def respond_alone(
    http: httpx.Client, thread_id: str, asked: dict[str, Any], text: str
) -> dict[str, Any]:
    with httpx.Client(base_url=str(http.base_url), timeout=60) as own:
        return respond(own, thread_id, asked, text)


def test_of_two_questions_the_open_one_is_asked_again(http: httpx.Client) -> None:
    """Under its own id."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "two_questions", input={})
    events = read_runs(http, thread_id)
    left, right = [event for event in events if event["method"] == "input.requested"]
    assert respond(http, thread_id, left, "l")["type"] == "success"
    events = read_runs(http, thread_id, since=numbers(events)[-1])
    (again,) = data_of(events, "input.requested")
    assert again["interrupt_id"] == right["params"]["data"]["interrupt_id"]
    assert respond(http, thread_id, right, "r")["type"] == "success"
    events = read_runs(http, thread_id, since=numbers(events)[-1])
    assert data_of(events, "values")[-1] == {"left": "l", "right": "r"}


def test_many_answers_an_update_and_metadata_go_in_one_step(http: httpx.Client) -> None:
    """The run stores what it was given."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "two_questions", input={})
    asked = data_of(read_runs(http, thread_id), "input.requested")
    answer = command(
        http,
        thread_id,
        "input.respond",
        responses=[{"interrupt_id": one["interrupt_id"], "response": "x"} for one in asked],
        metadata={"who": "me"},
    )
    run = get(http, {"thread_id": thread_id, "run_id": answer["result"]["run_id"]})
    assert run["metadata"]["who"] == "me"
    assert run["kwargs"]["command"]["resume"] == {one["interrupt_id"]: "x" for one in asked}
    assert data_of(read_runs(http, thread_id, 2), "values")[-1] == {"left": "x", "right": "x"}


def test_both_generations_read_the_same_run(server: Deployment, http: httpx.Client) -> None:
    """A joiner of generation 1 beside readers of generation 2, of either kind of run."""
    thread_id = str(uuid4())
    run_id = start_run(http, thread_id, "slow_chat", input=say("hello there"))
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    with server.client() as own, own.stream("GET", path, headers={"last-event-id": "-1"}) as old:
        joined = list(events_of(old))
    events = read_runs(http, thread_id)
    assert joined[0][0] == "metadata"
    final = [data for name, data, _ in joined if name == "values"][-1]["messages"][-1]
    assert final["id"] == data_of(events, "values")[-1]["messages"][-1]["id"]
    with server.client() as own, own.stream("GET", path, headers={"last-event-id": "-1"}) as old:
        assert list(events_of(old)) == joined


def test_a_stream_opened_amid_a_run_of_generation_1_shows_its_end(
    server: Deployment, http: httpx.Client, tmp_path: Path
) -> None:
    """Nobody had asked for numbered events before: they begin when somebody does."""
    thread_id = new_thread(http)
    gate = tmp_path / "gate"
    run = start(http, thread_id, "blocking", input={"path": str(gate)}, stream_mode="values")
    until(lambda: get(http, run)["status"] == "running")
    gate_opener = Thread(
        target=lambda: (until(lambda: has_numbers(server, thread_id)), gate.touch())
    )
    gate_opener.start()
    events = read_runs(http, thread_id)
    gate_opener.join()
    assert lifecycle(events) == ["running", "completed"]
    assert numbers(events) == list(range(1, len(events) + 1))


def has_numbers(server: Deployment, thread_id: str) -> bool:
    query = "SELECT event_seq IS NOT NULL FROM thread WHERE thread_id = CAST(:id AS uuid)"
    return bool(server.value(query, id=thread_id))


def test_a_run_that_is_cancelled_before_it_begins_is_told_of(
    deployment: Deployment,
) -> None:
    """No worker ends it: the web process tells."""
    deployment.start_web()
    with deployment.client() as http:
        thread_id = str(uuid4())
        run_id = start_run(http, thread_id, "chat", input=say("never"))
        http.post(f"/threads/{thread_id}/runs/{run_id}/cancel").raise_for_status()
        assert lifecycle(read_runs(http, thread_id)) == ["interrupted"]


@pytest.mark.parametrize("action", ["interrupt", "rollback", "delete"])
def test_stopping_a_run_ends_it_for_its_readers(http: httpx.Client, action: str) -> None:
    """And the numbers of what was removed are not given again."""
    thread_id = str(uuid4())
    stream = listen(http, thread_id)
    with httpx.Client(base_url=str(http.base_url), timeout=60) as other:
        run_id = start_run(other, thread_id, "slow_chat", input=say("a b c d e f g h i j k l m"))
        seen = []
        for event in stream:
            seen.append(event)
            if event["method"] == "messages":
                break
        path = f"/threads/{thread_id}/runs/{run_id}"
        if action == "delete":
            other.delete(path).raise_for_status()
        else:
            other.post(f"{path}/cancel?action={action}").raise_for_status()
        for event in stream:
            seen.append(event)
            if is_end(event):
                break
        assert lifecycle(seen) == ["running", "interrupted"]
        start_run(other, thread_id, "chat", input=say("next"))
        for event in stream:
            seen.append(event)
            if is_end(event):
                break
    assert numbers(seen) == list(range(1, len(numbers(seen)) + 1))


def test_a_run_goes_on_under_new_numbers_after_its_worker_died(deployment: Deployment) -> None:
    """No number twice, none left out, one beginning and one end; replays show the same."""
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http, deployment.client() as own:
        thread_id = str(uuid4())
        stream = listen(own, thread_id)
        run_id = start_run(http, thread_id, "steps", input={"n": 12, "seconds": 0.1})
        seen: list[dict[str, Any]] = []
        while len(data_of(seen, "custom")) < 4:
            seen.append(next(stream))
        deployment.workers[0].kill()
        deployment.start_worker()
        while not seen or not is_end(seen[-1]):
            seen.append(next(stream))
        assert numbers(seen) == list(range(1, len(numbers(seen)) + 1))
        assert lifecycle(seen) == ["running", "completed"]
        assert read_runs(http, thread_id) == seen
        assert get(http, {"thread_id": thread_id, "run_id": run_id})["status"] == "success"
        assert data_of(seen, "values")[-1]["trail"] == list(range(12))


def test_what_a_paused_worker_still_says_is_refused(deployment: Deployment) -> None:
    """Its run is another's by then."""
    deployment.start_web()
    paused = deployment.start_worker()
    with deployment.client() as http, deployment.client() as own:
        thread_id = str(uuid4())
        stream = listen(own, thread_id)
        start_run(http, thread_id, "steps", input={"n": 8, "seconds": 0.1})
        seen: list[dict[str, Any]] = []
        while len(data_of(seen, "custom")) < 2:
            seen.append(next(stream))
        paused.send_signal(signal.SIGSTOP)
        deployment.start_worker()
        until(lambda: deployment.count_log("lease expired, run requeued") > 0, 30)
        paused.send_signal(signal.SIGCONT)
        while not is_end(seen[-1]):
            seen.append(next(stream))
        until(lambda: deployment.count_log("status=lost") > 0, 30)
        assert numbers(seen) == list(range(1, len(numbers(seen)) + 1))
        assert lifecycle(seen) == ["running", "completed"]
        assert read_runs(http, thread_id) == seen


def test_without_redis_events_come_from_postgres(deployment: Deployment) -> None:
    """Later, but whole."""
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http, deployment.client() as own:
        thread_id = str(uuid4())
        stream = listen(own, thread_id)
        start_run(http, thread_id, "chat", input=say("with"))
        seen = [next(stream)]
        while not is_end(seen[-1]):
            seen.append(next(stream))
        deployment.redis.__exit__(None, None, None)
        start_run(http, thread_id, "chat", input=say("without"))
        seen.append(next(stream))
        while not is_end(seen[-1]):
            seen.append(next(stream))
        assert numbers(seen) == list(range(1, len(numbers(seen)) + 1))
        assert lifecycle(seen) == ["running", "completed"] * 2


def test_numbers_grow_on_after_old_events_were_dropped(deployment: Deployment) -> None:
    """RESUMABLE_STREAM_TTL_SECONDS after the end nobody is promised a replay."""
    deployment.settings["RESUMABLE_STREAM_TTL_SECONDS"] = "1"
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        thread_id = str(uuid4())
        start_run(http, thread_id, "chat", input=say("one"))
        first = read_runs(http, thread_id)
        until(lambda: deployment.value("SELECT count(*) = 0 FROM thread_event"))
        start_run(http, thread_id, "chat", input=say("two"))
        second = read_runs(http, thread_id)
        assert numbers(second)[0] == numbers(first)[-1] + 1


def test_a_run_starts_from_a_checkpoint_and_never_on_another_thread(http: httpx.Client) -> None:
    """As front ends branch: a checkpoint in the config, with their own idea of the thread."""
    thread_id, other_id = str(uuid4()), str(uuid4())
    start_run(http, thread_id, "chat", input=say("first"))
    checkpoints = data_of(read_runs(http, thread_id), "checkpoints")
    start_run(http, thread_id, "chat", input=say("second"))
    seen = read_runs(http, thread_id, 2)
    configurable = {"thread_id": other_id, "checkpoint_id": checkpoints[-1]["id"]}
    start_run(http, thread_id, "chat", input=say("instead"), config={"configurable": configurable})
    branch = read_runs(http, thread_id, since=numbers(seen)[-1])
    texts = [message["content"] for message in data_of(branch, "values")[-1]["messages"]]
    assert [text for text in texts if isinstance(text, str)] == ["first", "instead"]
    assert http.get(f"/threads/{other_id}").status_code == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "Invalid JSON body"),
        (b'{"channels": "values"}', "channels is required and must be a non-empty array"),
        (b'{"channels": ["debug"]}', "channels contains unsupported entries: debug"),
        (b'{"channels": ["custom:"]}', "channels contains unsupported entries: custom:"),
    ],
)
def test_refused_subscriptions(http: httpx.Client, body: bytes, said: str) -> None:
    """400, with the reason."""
    answer = http.post(f"/threads/{uuid4()}/stream/events", content=body)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(said)


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("run.start", {"assistant_id": "chat", "config": 1}, "invalid_argument"),
        ("run.start", {"assistant_id": "chat", "multitask_strategy": "no"}, "invalid_argument"),
        ("run.start", {"assistant_id": "nope"}, "unknown_error"),
        ("input.respond", {"responses": [{}]}, "invalid_argument"),
        ("input.respond", {"interrupt_id": "x"}, "no_such_run"),
        ("subscription.reconnect", {}, "no_such_run"),
        ("state.get", {}, "unknown_command"),
    ],
)
def test_refused_commands(
    http: httpx.Client, method: str, params: dict[str, Any], error: str
) -> None:
    """200, with a code and a sentence; nothing is left behind."""
    thread_id = str(uuid4())
    answer = command(http, thread_id, method, **params)
    assert answer["error"] == error
    assert answer["message"]
    assert http.get(f"/threads/{thread_id}").status_code == 404


def test_the_tree_names_the_graph_at_work(http: httpx.Client) -> None:
    """While a run is on its way."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "slow_chat", input=say("a b c d e f g h"))
    answer = command(http, thread_id, "agent.getTree")
    expected = {"namespace": [], "status": "running", "graph_name": "slow_chat"}
    assert answer["result"]["tree"] == expected
    read_runs(http, thread_id)


def test_a_second_run_may_interrupt_or_be_refused(http: httpx.Client) -> None:
    """The strategies of generation 1 count here, too."""
    thread_id = str(uuid4())
    start_run(http, thread_id, "slow_chat", input=say("a b c d e f g h i j k l m n o p"))
    refused = command(
        http, thread_id, "run.start", assistant_id="chat", multitask_strategy="reject"
    )
    assert refused["message"].startswith("409: ")
    start_run(http, thread_id, "chat", input=say("now"), multitask_strategy="interrupt")
    assert lifecycle(read_runs(http, thread_id, 2))[-3:] == ["interrupted", "running", "completed"]
