"""Middleware of the owner's around every route of the server."""

import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psutil
import pytest
from deployment import Deployment, events_of, get, join, new_thread, start, until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from greenroom.graphs.passing import REQUEST_HEADER, pack

Serve = Callable[..., AbstractContextManager[httpx.Client]]
AUTH = {"path": "./auth.py:auth"}
APP = {"app": "./wrapping.py:app"}


@pytest.fixture(scope="module")
def wrapped(engines: Deployment, serve: Serve) -> Iterator[httpx.Client]:
    """A server that asks nobody who calls, of two web processes."""
    env = {"WEB_CONCURRENCY": "2", "HTTP_MAX_REQUEST_BODY_BYTES": "300000"}
    worker = engines.start_worker()
    with serve("wrapped", http=APP, env=env) as client:
        yield client
    worker.terminate()


@pytest.fixture(scope="module")
def middleware_first(serve: Serve) -> Iterator[httpx.Client]:
    """Callers are known after the middleware: what happens where nothing else is said."""
    with serve("first", auth=AUTH, http={**APP, "enable_custom_route_auth": True}) as client:
        yield client


@pytest.fixture(scope="module")
def auth_first(serve: Serve) -> Iterator[httpx.Client]:
    """Callers are known before."""
    http = {**APP, "enable_custom_route_auth": True, "middleware_order": "auth_first"}
    with serve("second", auth=AUTH, http=http) as client:
        yield client


@pytest.fixture(params=["middleware_first", "auth_first"])
def guarded(request: pytest.FixtureRequest) -> httpx.Client:
    """A server of either order."""
    found: httpx.Client = request.getfixturevalue(request.param)
    return found


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


def is_marked(answer: httpx.Response) -> bool:
    return answer.headers.get_list("x-marked") == ["yes"]


def test_every_route_of_the_server_is_wrapped(wrapped: httpx.Client) -> None:
    """By whatever method, and also what is not there; answers are what they were."""
    thread_id = new_thread(wrapped)
    answers = [
        wrapped.get(f"/threads/{thread_id}"),
        wrapped.patch(f"/threads/{thread_id}", json={"metadata": {"a": 1}}),
        wrapped.post("/assistants/search", json={}),
        wrapped.get("/info?a=%20b&a=c"),
        wrapped.get("/docs"),
        wrapped.delete(f"/threads/{thread_id}"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 200, 204]
    assert all(is_marked(answer) for answer in answers)
    assert answers[0].json()["thread_id"] == thread_id
    assert answers[1].json()["metadata"] == {"a": 1}
    assert "content-security-policy" in answers[4].headers
    lost = wrapped.get(f"/threads/{uuid4()}")
    assert (lost.status_code, is_marked(lost)) == (404, True)
    unknown = wrapped.get("/nothing/here")
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Not Found"})
    assert is_marked(unknown)
    assert wrapped.put("/threads/search").status_code == 405
    assert is_marked(wrapped.get("/custom/tell"))
    assert wrapped.post("/threads/count").json() == "counted by the owner"


def test_head_and_options_are_wrapped(wrapped: httpx.Client) -> None:
    """Without a body where there is none; what browsers ask before is the server's to answer."""
    head = wrapped.head("/info")
    assert (head.status_code, head.content, is_marked(head)) == (200, b"", True)
    assert int(head.headers["content-length"]) == len(wrapped.get("/info").content)
    options = wrapped.options("/info")
    assert (options.status_code, is_marked(options)) == (200, True)
    asked = {"origin": "https://somewhere.example", "access-control-request-method": "GET"}
    preflight = wrapped.options("/info", headers=asked)
    assert (preflight.status_code, is_marked(preflight)) == (200, False)
    answer = wrapped.get("/info", headers={"origin": "https://somewhere.example"})
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]


@pytest.mark.parametrize("more", [{}, {"x-read": "yes"}], ids=["unread", "read"])
def test_bodies_arrive_as_they_were_sent(wrapped: httpx.Client, more: dict[str, str]) -> None:
    """Of a known length and in chunks, also where middleware has read them."""
    metadata = {"text": "0123456789" * 20_000, "more": "ü\u2028"}
    body = json.dumps({"metadata": metadata}).encode()
    headers = {"content-type": "application/json", **more}
    answer = wrapped.post("/threads", content=body, headers=headers)
    assert answer.json()["metadata"] == metadata
    pieces = iter([body[:100_000], body[100_000:]])
    answer = wrapped.post("/threads", content=pieces, headers=headers)
    assert answer.json()["metadata"] == metadata
    expected = hashlib.sha256(body).hexdigest()
    answer = wrapped.post("/custom/digest", content=body, headers=headers)
    assert answer.json()["sha256"] == expected


def test_a_body_that_is_too_long_is_refused(wrapped: httpx.Client) -> None:
    """Before it is read, or as soon as it has grown too long."""
    assert wrapped.post("/threads", content=b"x" * 300_001).status_code == 413
    pieces = (b"x" * 100_000 for _ in range(30))
    assert wrapped.post("/threads", content=pieces).status_code == 413


def test_events_of_a_run_arrive_one_by_one(engines: Deployment, wrapped: httpx.Client) -> None:
    """The first before the run goes on; the run ends as any other."""
    flag = engines.directory / f"{uuid4()}.flag"
    body = {"assistant_id": "gated", "input": {"flag": str(flag)}, "stream_mode": "updates"}
    path = f"/threads/{new_thread(wrapped)}/runs/stream"
    with wrapped.stream("POST", path, json=body) as response:
        assert is_marked(response)
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response)
        found = next(data for name, data, _ in events if name == "updates")
        assert found == {"first": {"text": "first"}}
        flag.touch()
        rest = [data for name, data, _ in events if name == "updates"]
    assert rest == [{"wait": {"text": "second"}}]


def test_a_client_that_leaves_leaves_the_view(engines: Deployment, wrapped: httpx.Client) -> None:
    """Its run is cancelled as it wished, through both processes between."""
    thread_id = new_thread(wrapped)
    flag = engines.directory / f"{uuid4()}.flag"
    body = {
        "assistant_id": "gated",
        "input": {"flag": str(flag)},
        "stream_mode": "updates",
        "on_disconnect": "cancel",
    }
    with wrapped.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as response:
        events = events_of(response)
        assert next(data for name, data, _ in events if name == "updates")
    (run,) = wrapped.get(f"/threads/{thread_id}/runs").json()
    until(lambda: get(wrapped, run)["status"] == "interrupted")


def test_one_that_leaves_before_the_answer_is_no_fault(
    engines: Deployment, wrapped: httpx.Client
) -> None:
    """The view that it waited for is left, and no log line complains of the application."""
    thread_id = new_thread(wrapped)
    flag = engines.directory / f"{uuid4()}.flag"
    before = engines.count_log("custom route raised")
    body = json.dumps(
        {"assistant_id": "gated", "input": {"flag": str(flag)}, "on_disconnect": "cancel"}
    )
    address = urlsplit(str(wrapped.base_url))
    with closing(socket.create_connection((address.hostname, address.port))) as raw:
        head = f"POST /threads/{thread_id}/runs/wait HTTP/1.1\r\nhost: x\r\n"
        raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        until(lambda: wrapped.get(f"/threads/{thread_id}/runs").json())
    (run,) = wrapped.get(f"/threads/{thread_id}/runs").json()
    until(lambda: get(wrapped, run)["status"] == "interrupted")
    assert engines.count_log("custom route raised") == before


def test_runs_are_waited_for(engines: Deployment, wrapped: httpx.Client) -> None:
    """A long answer is the same as without middleware."""
    flag = engines.directory / f"{uuid4()}.flag"
    flag.touch()
    run = start(wrapped, new_thread(wrapped), "gated", input={"flag": str(flag)})
    assert join(wrapped, run)["text"] == "second"


def test_middleware_may_refuse(wrapped: httpx.Client) -> None:
    """Nothing behind it happens then."""
    thread_id = str(uuid4())
    refused = wrapped.post("/threads", json={"thread_id": thread_id}, headers={"x-refuse": "yes"})
    assert (refused.status_code, refused.json()) == (401, {"detail": "refused by middleware"})
    assert wrapped.get(f"/threads/{thread_id}").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"upgrade": "websocket", "connection": "Upgrade"},
        {"upgrade": "websocket"},
        {REQUEST_HEADER: "{}"},
        {
            REQUEST_HEADER: pack({"is_ours": True, "user": None, "is_question": False})[0][
                1
            ].decode()
        },
        {"x-forwarded-prefix": "/", "script-name": "/threads"},
        {"connection": "x-refuse, close"},
    ],
)
def test_no_header_leads_round_it(wrapped: httpx.Client, headers: dict[str, str]) -> None:
    """Not one of ours, neither, which a client may well know."""
    for path in ("/threads/search", "/threads/search%0A", "/custom/digest", "/nothing"):
        answer = wrapped.post(path, json={}, headers=headers)
        assert answer.status_code in {200, 400, 404, 405, 422}
        assert is_marked(answer), (path, answer.text)


def test_answers_that_come_before_the_body_was_read_are_not_lost(wrapped: httpx.Client) -> None:
    """Nobody reads what is sent to a path that does not exist: that must not cost the answer."""

    def ask(_number: int) -> int:
        return wrapped.post("/nothing", json={"much": "x" * 2000}).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(800))) == {404}


def test_health_is_told_without_it(wrapped: httpx.Client) -> None:
    """Whoever watches the process learns of the process."""
    answer = wrapped.get("/ok", headers={"x-refuse": "yes"})
    assert (answer.status_code, is_marked(answer)) == (200, False)


def test_middleware_that_raises_is_a_500(engines: Deployment, wrapped: httpx.Client) -> None:
    """With a line in the log, nothing of it in the answer, and the server going on."""
    before = engines.count_log("custom route raised")
    answer = wrapped.post("/threads", json={}, headers={"x-raise": "yes"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    until(lambda: engines.count_log("custom route raised") > before)
    assert new_thread(wrapped)


def test_a_request_is_counted_once(wrapped: httpx.Client) -> None:
    """Though it comes twice."""

    def count() -> float:
        text = wrapped.get("/metrics").text
        line = r'^lg_api_http_requests_total\{method="GET",path="/info",status="200"\} (\S+)$'
        return sum(float(each) for each in re.findall(line, text, re.MULTILINE))

    before = count()
    wrapped.get("/info")
    assert count() == before + 1


def test_without_the_graphs_process_all_but_the_health_is_a_503(
    engines: Deployment, write_project: Callable[..., str]
) -> None:
    """Nobody gets round the middleware because it is away; its successor serves again."""
    url = engines.start_web(GREENROOM_CONFIG=write_project("bereft", http=APP))
    with httpx.Client(base_url=url, timeout=60) as client:
        assert is_marked(client.get("/info"))
        children = psutil.Process(engines.webs[url].pid).children()
        (graphs,) = (each for each in children if "graphs" in each.cmdline())
        graphs.kill()
        answer = client.post("/threads/search", json={})
        # Its successor may have come within the time that a request waits for one.
        assert answer.status_code in {200, 503}
        assert is_marked(answer) is (answer.status_code == 200)
        assert client.get("/ok").status_code == 200
        until(lambda: is_marked(client.get("/info")), 60)


def test_middleware_first_may_say_who_calls(middleware_first: httpx.Client) -> None:
    """It sees requests before anybody is known, and answers of those who are refused."""
    refused = middleware_first.post("/threads", json={})
    assert (refused.status_code, is_marked(refused)) == (401, True)
    made = middleware_first.post("/threads", json={}, headers={"x-become": "ann"})
    assert (made.status_code, made.headers["x-user-seen"]) == (200, "nobody")
    path = f"/threads/{made.json()['thread_id']}"
    assert middleware_first.get(path, headers=bearer("bob")).status_code == 404
    assert middleware_first.get(path, headers=bearer("ann")).status_code == 200
    became = middleware_first.get(path, headers={**bearer("bob"), "x-become": "ann"})
    assert became.status_code == 200


def test_middleware_first_runs_before_the_routes_of_the_application(
    middleware_first: httpx.Client,
) -> None:
    """Whose callers are known between the two."""
    refused = middleware_first.get("/custom/tell")
    assert (refused.status_code, is_marked(refused)) == (401, True)
    answer = middleware_first.get("/custom/tell", headers={"x-become": "ann"})
    assert (answer.json()["user"], answer.headers["x-user-seen"]) == ("ann", "nobody")
    assert middleware_first.post("/threads/count").status_code == 401
    body = b"0123456789" * 1000
    answer = middleware_first.post("/custom/digest", content=body, headers=bearer("ann"))
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
    head = middleware_first.head("/custom/tell", headers=bearer("ann"))
    assert (head.status_code, head.content) == (200, b"")


def test_auth_first_asks_before(auth_first: httpx.Client) -> None:
    """Middleware sees neither who is refused, nor changes who somebody is."""
    for path in ("/threads", "/custom/digest", "/threads/count"):
        refused = auth_first.post(path, json={}, headers={"x-become": "ann"})
        assert (refused.status_code, is_marked(refused)) == (401, False)
    made = auth_first.post("/threads", json={}, headers={**bearer("ann"), "x-become": "bob"})
    assert (made.status_code, made.headers["x-user-seen"]) == (200, "ann")
    path = f"/threads/{made.json()['thread_id']}"
    assert auth_first.get(path, headers=bearer("bob")).status_code == 404
    assert auth_first.get(path, headers=bearer("ann")).status_code == 200
    told = auth_first.get("/custom/tell", headers={**bearer("ann"), "x-become": "bob"})
    assert (told.json()["user"], told.headers["x-user-seen"]) == ("ann", "ann")
    assert auth_first.get("/info").headers["x-user-seen"] == "nobody"


def test_who_calls_cannot_be_forged(guarded: httpx.Client) -> None:
    """What the two processes tell each other means nothing when a client says it."""
    user = {"identity": "ann", "permissions": ["write"]}
    told = {
        "scheme": "http",
        "client": ["127.0.0.1", 1],
        "server": ["127.0.0.1", 1],
        "root_path": "",
        "user": user,
        "is_ours": True,
        "is_admitted": True,
        "is_question": False,
    }
    for value in (pack(told)[0][1].decode(), json.dumps(told)):
        forged = {REQUEST_HEADER: value}
        assert guarded.post("/threads", json={}, headers=forged).status_code == 401
        assert guarded.get("/custom/tell", headers=forged).status_code == 401
        asked = guarded.get("/info", headers=forged)
        assert (asked.status_code, REQUEST_HEADER in asked.headers) == (200, False)
        assert "version" in asked.json()


def test_a_path_that_middleware_changes_is_as_closed(guarded: httpx.Client) -> None:
    """Whatever it leads to, and wherever the request came in."""
    made = guarded.post("/threads", json={}, headers=bearer("ann")).json()
    for path in ("/custom/tell", f"/threads/{made['thread_id']}"):
        headers = {"x-rewrite": path}
        assert guarded.get("/info", headers=headers).status_code == 401
        answer = guarded.get("/info", headers={**headers, **bearer("ann")})
        assert (answer.status_code, is_marked(answer)) == (200, True)
    assert answer.json()["thread_id"] == made["thread_id"]
    headers = {**bearer("bob"), "x-rewrite": path}
    assert guarded.get("/info", headers=headers).status_code == 404
    away = guarded.get("/custom/tell", headers={**bearer("ann"), "x-rewrite": "/info"})
    assert "version" in away.json()


def test_sockets_ask_before_middleware(guarded: httpx.Client) -> None:
    """In either order."""
    url = str(guarded.base_url).replace("http", "ws", 1)
    with connect(f"{url}/custom/talk", additional_headers=bearer("ann")) as opened:
        assert opened.recv(timeout=30) == "ann"
    with pytest.raises(InvalidStatus) as refused, connect(f"{url}/custom/talk"):
        pass
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize("order", ["middleware_first", "auth_first"])
def test_a_body_that_the_handler_reads_is_left_for_the_route(serve: Serve, order: str) -> None:
    """In either order, up to the limit."""
    auth = {"path": "./reading_auth.py:auth"}
    http = {**APP, "enable_custom_route_auth": True, "middleware_order": order}
    body = b'{"name": "ann", "metadata": {"more": "%b"}}' % (b"x" * 100_000)
    env = {"HTTP_MAX_REQUEST_BODY_BYTES": "300000"}
    with serve(f"reading-{order}", auth=auth, http=http, env=env) as client:
        for content in (body, iter([body[:70_000], body[70_000:]])):
            answer = client.post("/custom/digest", content=content)
            assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
        made = client.post("/threads", content=body)
        assert len(made.json()["metadata"]["more"]) == 100_000
        assert client.post("/custom/digest", content=iter([body] * 4)).status_code == 413


@pytest.mark.parametrize("order", ["middleware_first", "auth_first"])
def test_requests_are_counted_against_the_limit_of_their_caller(serve: Serve, order: str) -> None:
    """Each once, whichever way it goes."""
    http = {**APP, "enable_custom_route_auth": True, "middleware_order": order}
    env = {"GREENROOM_RATE_LIMIT": "100/day", "REDIS_KEY_PREFIX": f"rate-{order}-"}
    with serve(f"rated-{order}", auth=AUTH, http=http, env=env) as client:
        left = [
            int(client.get(path, headers=bearer("ann")).headers["ratelimit-remaining"])
            for path in ("/custom/tell", f"/threads/{uuid4()}", "/custom/tell")
        ]
    assert left == [99, 98, 97]


@pytest.mark.parametrize("order", ["middleware_first", "auth_first"])
def test_much_may_be_known_of_a_caller(serve: Serve, order: str) -> None:
    """More than fits into one header, on the way back."""
    auth = {"path": "./vast_auth.py:auth"}
    http = {**APP, "enable_custom_route_auth": True, "middleware_order": order}
    with serve(f"vast-{order}", auth=auth, http=http) as client:
        assert client.post("/threads", json={}, headers=bearer("ann")).status_code == 200
        assert client.get("/custom/tell", headers=bearer("ann")).json()["user"] == "ann"
        assert client.post("/threads", json={}).status_code == 401


def test_a_prefix_stands_before_all(engines: Deployment, write_project: Callable[..., str]) -> None:
    """Requests come back with it."""
    file = write_project("wrapped-prefix", http={**APP, "mount_prefix": "/api"})
    url = engines.start_web(prefix="/api", GREENROOM_CONFIG=file)
    with httpx.Client(base_url=url, timeout=60) as client:
        answer = client.get("/api/info")
        assert (answer.status_code, is_marked(answer)) == (200, True)
        told = client.get("/api/custom/tell")
        assert (told.json()["path"], is_marked(told)) == ("/api/custom/tell", True)
        rewritten = client.get("/api/info", headers={"x-rewrite": "/api/custom/tell"})
        assert rewritten.json()["path"] == "/api/custom/tell"
        assert not is_marked(client.get("/api/ok"))
        assert client.get("/info").status_code == 404


def test_a_stream_is_cut_when_the_server_stops(
    engines: Deployment, write_project: Callable[..., str]
) -> None:
    """A clean end would say that this was all; nobody waits for it, nothing is killed."""
    url = engines.start_web(GREENROOM_CONFIG=write_project("stopped", http=APP))
    process = engines.webs[url]
    faults = engines.count_log("Socket error")
    with httpx.Client(base_url=url, timeout=60) as client:
        path = f"/threads/{new_thread(client)}/stream"
        with client.stream("GET", path) as response:
            assert is_marked(response)
            process.terminate()
            with pytest.raises(httpx.RemoteProtocolError):
                list(response.iter_lines())
    assert process.wait(30) == 0
    assert engines.count_log("killing") == 0
    assert engines.count_log("Socket error") == faults


def test_a_client_is_who_it_is_to_the_routes_behind(wrapped: httpx.Client) -> None:
    """Redirects and addresses lead where it came from, not to a socket."""
    answer = wrapped.get("/threads/search/?a=b")
    assert (answer.status_code, is_marked(answer)) == (307, True)
    assert answer.headers["location"] == "/threads/search?a=b"
    told = wrapped.get("/custom/tell").json()
    assert told["client"][0] == "127.0.0.1"
