"""Payloads too large, too deep or not to be stored: refused or carried, never a fault of ours."""

import gzip
import json
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import httpx
from deployment import Deployment, events_of, get, join, new_thread, start
from ledger import Ledger, usage_of
from report import Scenario

Open = Callable[[int, str], Scenario]

MEGABYTE = 2**20
LARGEST_MULTIPLE = 24
"""Of a payload, in the memory of all processes together, buffers of their connections included."""
JSON = {"content-type": "application/json"}
REFUSED = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}


def run_body(value: bytes) -> bytes:
    """A request for a run with this JSON in its input."""
    return b'{"assistant_id":"echo","input":{"text":"x","trail":[' + value + b"]}}"


def nested(levels: int, leaf: bytes) -> bytes:
    """A leaf in lists in lists."""
    return b"[" * levels + leaf + b"]" * levels


def hostile_values() -> Iterator[bytes]:
    """JSON at the edge of what it may be, and beyond."""
    yield from (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1e-999", b"-0")
    yield from (b"9" * 30, b"9" * 5000, b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\xff"')
    yield from (b"[" * 100_000, b'{"a":' * 100_000, b'{"\\u0000":{"\\ud800":1}}')
    for levels in (150, 195, 250, 500, 900, 1010, 2000, 100_000):
        for leaf in (b"1", b'"\\u0000"', b'"\\ud800"'):
            yield nested(levels, leaf)


def test_hostile_json_is_refused_or_carried(
    deployment: Deployment, scenario: Open, ledger: Ledger
) -> None:
    """Deep nesting, NaN, lone surrogates and NUL, in bodies, metadata and queries; all go on."""
    one = scenario(13, "hostile JSON and text")
    url = deployment.start_web()
    worker = deployment.start_worker()
    accepted = {HTTPStatus.OK, *REFUSED}
    with deployment.client() as http:
        thread_id = new_thread(http)
        for value in hostile_values():
            shown = value[:40]
            place = f"/threads/{new_thread(http)}/runs"
            answer = http.post(place, content=run_body(value), headers=JSON)
            assert answer.status_code in accepted, shown
            if answer.status_code == HTTPStatus.OK:
                ledger.accept(answer.json())
            metadata = b'{"metadata":{"a":' + value + b"}}"
            answer = http.patch(f"/threads/{thread_id}", content=metadata, headers=JSON)
            assert answer.status_code in accepted, shown
        for path in ("?status=%00", "?select=%00", "?status=%ed%a0%80", "?limit=%00"):
            assert http.get(f"/threads/{thread_id}/runs{path}").status_code in accepted, path
        # Deeper than a checkpoint can be: that run fails, alone.
        for levels, status in ((150, "success"), (5000, "error")):
            body = {"input": {"kind": "levels", "count": levels}}
            run = ledger.accept(start(http, new_thread(http), "heavy", **body))
            join(http, run)
            assert get(http, run)["status"] == status
            assert http.get(f"/threads/{run['thread_id']}/state").status_code == HTTPStatus.OK
            history = http.get(f"/threads/{run['thread_id']}/history")
            assert history.status_code == HTTPStatus.OK
    ledger.check()
    assert worker.poll() is None
    assert deployment.webs[url].poll() is None
    assert deployment.count_log("unexpected fault") == 0
    one.runs, one.lost, one.doubled = len(ledger.runs), len(ledger.lost()), len(ledger.doubled())


def test_a_body_beyond_the_limit_is_refused_however_it_is_sent(deployment: Deployment) -> None:
    """With a length, in chunks of unknown length, also when what fits is JSON by itself."""
    limit = MEGABYTE
    deployment.start_web(HTTP_MAX_REQUEST_BODY_BYTES=str(limit))
    large = run_body(b'"' + b"x" * limit + b'"')
    padded = run_body(b"1") + b" " * limit

    def pieces(body: bytes) -> Iterator[bytes]:
        for start_ in range(0, len(body), 65536):
            yield body[start_ : start_ + 65536]

    with deployment.client() as http:
        path = f"/threads/{new_thread(http)}/runs"
        for body in (large, pieces(large), padded, pieces(padded)):
            answer = http.post(path, content=body, headers=JSON)
            assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        packed = gzip.compress(large)
        headers = {**JSON, "content-encoding": "gzip"}
        answer = http.post(path, content=packed, headers=headers)
        assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        fitting = run_body(b'"' + b"x" * (limit // 2) + b'"')
        assert http.post(path, content=pieces(fitting), headers=JSON).status_code == HTTPStatus.OK
        assert len(http.get(path).json()) == 1


def streamed(http: httpx.Client, body: dict[str, Any]) -> tuple[dict[str, str], list[Any]]:
    """Stream a run to its end: where it is, and its events but the first."""
    thread_id = new_thread(http)
    with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
        run_id = response.headers["content-location"].rpartition("/")[2]
        _, *events = [(name, data) for name, data, _ in events_of(response)]
    return {"thread_id": thread_id, "run_id": run_id}, events


def load_of(kind: str, size_bytes: int, count: int) -> dict[str, Any]:
    """The input of the graph `heavy` that makes such a payload."""
    return {
        "event": {"kind": "events", "size": size_bytes},
        "state": {"kind": "state", "size": size_bytes},
        "input": {"kind": "none", "made": "x" * size_bytes},
        "messages": {"kind": "messages", "count": count},
    }[kind]


def test_large_payloads_are_carried_whole_beside_others(
    deployment: Deployment, scenario: Open, ledger: Ledger, is_full: bool
) -> None:
    """A second client's stream misses nothing, and memory stays a small multiple of the payload."""
    deployment.start_web()
    # Its code holds the interpreter for longer than the leases of tests last.
    worker = deployment.start_worker(GREENROOM_LEASE_SECONDS="30")
    megabytes = {"messages": 0, "event": 10, "state": 50, "input": 50}
    count = 100_000 if is_full else 10_000
    for kind, largest in megabytes.items():
        size_bytes = largest * MEGABYTE // (1 if is_full else 6)
        title = f"{kind} of {size_bytes >> 10} KiB" if size_bytes else f"{count:,} messages"
        one = scenario(13, title)
        before = usage_of(deployment).megabytes
        made, carried = carry(deployment, ledger, load_of(kind, size_bytes, count))
        whole = {"messages": count, "event": 1, "state": size_bytes, "input": 1}[kind]
        assert made == whole if isinstance(made, int) else len(made) == whole
        grown = usage_of(deployment).megabytes - before
        assert grown < 150 + LARGEST_MULTIPLE * max(carried, size_bytes) / MEGABYTE
        one.runs = 2
    ledger.check()
    assert worker.poll() is None
    assert deployment.count_log("lease expired") == 0


def carry(deployment: Deployment, ledger: Ledger, load: dict[str, Any]) -> tuple[Any, int]:
    """Stream a large run beside a small one: what it made, and the size of its thread's state."""
    with deployment.client() as http, deployment.client() as other:
        http.timeout = other.timeout = httpx.Timeout(200)
        body = {"input": {"n": 60, "seconds": 0.05}}
        neighbour = ledger.accept(start(other, new_thread(other), "steps", **body))
        path = f"/threads/{neighbour['thread_id']}/runs/{neighbour['run_id']}/stream"
        large = {"assistant_id": "heavy", "input": load, "stream_mode": ["values", "custom"]}
        with other.stream("GET", path) as response:
            run, events = streamed(http, large)
            ledger.accept(run)
            values = [data for name, data, _ in events_of(response) if name == "values"]
        seen = [len(value.get("trail", ())) for value in values]
        assert seen == list(range(seen[0], 61))
        assert get(http, run)["status"] == "success"
        blobs = [len(data["blob"]) for name, data in events if name == "custom"]
        assert blobs == ([load["size"]] if load["kind"] == "events" else [])
        made = events[-1][1]["made"]
        assert join(http, run)["made"] == made
        state = http.get(f"/threads/{run['thread_id']}/state").json()
        assert state["values"]["made"] == made
        history = http.get(f"/threads/{run['thread_id']}/history").json()
        assert history[0]["values"] == state["values"]
    return made, len(json.dumps(state))
