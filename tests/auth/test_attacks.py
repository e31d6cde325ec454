"""Ways round the door and through the window, each answered as SECURITY.md says."""

import json
import socket
import time
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment, join, new_thread, start

SECRET = "ann's own words"


@pytest.fixture(scope="module")
def hers(guarded: Deployment) -> str:
    """A thread of ann's, with a state."""
    with guarded.client(token="ann") as ann:
        thread_id = new_thread(ann)
        join(ann, start(ann, thread_id, "echo", input={"text": SECRET}))
        return thread_id


def say(server: Deployment, request: str, *, only_head: bool = False) -> str:
    """Send a request as it is written, and read until the server closes, or its headers end."""
    place = urlsplit(server.url)
    answer = b""
    with socket.create_connection((place.hostname, place.port), timeout=30) as line:
        line.sendall(request.encode("latin-1"))
        while part := line.recv(65536):
            answer += part
            if only_head and b"\r\n\r\n" in answer:
                break
    return answer.decode("latin-1")


PATHS = [
    "/Threads/{t}/state",
    "/THREADS/{t}/state",
    "//threads/{t}/state",
    "/threads//{t}/state",
    "/threads/{t}//state",
    "/threads/{t}/state/",
    "/threads/{t}%2fstate",
    "/threads%2f{t}/state",
    "/%74hreads/{t}/state",
    "/ok/../threads/{t}/state",
    "/ok/%2e%2e/threads/{t}/state",
    "/docs/..%2fthreads%2f{t}%2fstate",
    "/docs/../../threads/{t}/state",
    "/threads/{t}/state;ok",
    "/threads/{t}/state%00",
    "/threads/{t}/state?/ok",
    "/threads/{t}/state#/ok",
    "/ok/threads/{t}/state",
    "/info/../threads/{t}",
    "/noauth/threads/{t}/state",
    "/openapi.json/../threads/{t}/state",
    "/threads/{T}/state",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", [None, "bob"])
def test_no_other_spelling_of_a_path_leads_in(
    guarded: Deployment, hers: str, path: str, token: str | None
) -> None:
    """Routes are matched as they are asked; whatever matches asks who calls."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    target = path.replace("{t}", hers).replace("{T}", hers.upper())
    answer = say(
        guarded, f"GET {target} HTTP/1.1\r\nHost: x\r\n{authorization}Connection: close\r\n\r\n"
    )
    status = int(answer.split(" ", 2)[1])
    assert status in {307, 400, 401, 404, 422}
    assert SECRET not in answer
    # A redirect stays on this server, where the door is.
    for line in answer.split("\r\n"):
        if line.lower().startswith("location:"):
            assert line.split(":", 1)[1].strip().startswith("/threads/")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_other_methods_show_nothing(guarded: Deployment, hers: str, method: str) -> None:
    """HEAD asks who calls as GET does; OPTIONS tells methods alone; the rest is refused."""
    answer = say(
        guarded, f"{method} /threads/{hers} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    status = int(answer.split(" ", 2)[1])
    assert status == {"HEAD": 401, "OPTIONS": 200}.get(method, status)
    assert status in {200, 400, 401, 405, 501}
    assert "owner" not in answer


@pytest.mark.parametrize("header", ["x-http-method-override", "x-method-override", "x-http-method"])
def test_a_method_cannot_be_another(
    guarded: Deployment, reader: httpx.Client, hers: str, header: str
) -> None:
    """A reader's GET stays a GET."""
    assert reader.get(f"/threads/{hers}", headers={header: "DELETE"}).status_code == 200
    answer = reader.get(f"/threads/{hers}?_method=DELETE")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "header", ["x-forwarded-user", "x-auth-scheme", "x-original-url", "x-rewrite-url", "x-user-id"]
)
def test_headers_of_proxies_and_studios_open_nothing(
    guarded: Deployment, hers: str, header: str
) -> None:
    """Nobody is believed who says who they are."""
    with guarded.client() as client:
        for value in ("ann", "langsmith", "/ok"):
            answer = client.get(f"/threads/{hers}", headers={header: value})
            assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/threads/{t}/stream", "/threads/{t}/stream/events", "/ws", "/"])
def test_a_websocket_does_not_get_round_the_door(guarded: Deployment, hers: str, path: str) -> None:
    """An upgrade asks who calls, as any request does, and is none on other paths."""
    answer = say(
        guarded,
        f"GET {path.replace('{t}', hers)} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        only_head=True,
    )
    assert " 101 " not in answer.split("\r\n")[0]
    assert SECRET not in answer


CHUNKED = "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /threads/{t} HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "request_text",
    [
        # A body that ends twice, and a second request inside the first.
        f"POST /threads HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n{CHUNKED}",
        "POST /threads HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 90\r\n\r\n{}",
        "GET /threads/{t} HTTP/1.1\r\nHost: x\r\nX-A: b\r\n Authorization: Bearer ann\r\n\r\n",
        "GET /threads/{t} HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer ann\r\n\r\n",
    ],
)
def test_requests_that_are_read_two_ways_are_refused(
    guarded: Deployment, hers: str, request_text: str
) -> None:
    """Whatever stands in front of the server must not see another request than it does."""
    answer = say(guarded, request_text.replace("{t}", hers))
    assert " 400 " in answer.split("\r\n")[0]
    assert "owner" not in answer


@pytest.mark.parametrize(
    "path", ["/threads/%0d%0aSet-Cookie:%20a=b/", "/%0d%0aLocation:%20http://evil/", "/x%0aY:%20z/"]
)
def test_no_header_comes_out_of_a_path(guarded: Deployment, path: str) -> None:
    """The redirect that takes a slash away repeats the path, and nothing that it hides."""
    answer = say(guarded, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head = answer.split("\r\n\r\n")[0].lower().split("\r\n")
    assert not any(line.startswith(("set-cookie:", "y:")) for line in head)
    assert not any("http://evil" in line and line.startswith("location: http") for line in head)


def test_a_body_that_is_too_long_is_not_read(deployment: Deployment) -> None:
    """413, whether it says how long it is or not."""
    deployment.start_web(HTTP_MAX_REQUEST_BODY_BYTES="1000")
    with deployment.client() as client:
        body = json.dumps({"metadata": {"x": "y" * 2000}})
        assert client.post("/threads", content=body).status_code == 413

        def chunks() -> Any:
            for _ in range(20):
                yield b" " * 100

        assert client.post("/threads", content=chunks()).status_code == 413
        assert client.post("/threads", json={}).status_code == 200


def test_a_deep_body_is_refused(ann: httpx.Client) -> None:
    """In every place that takes any JSON, also where a filter is made of it."""
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    for path, body in (
        ("/threads", f'{{"metadata": {deep}}}'),
        ("/threads/search", f'{{"metadata": {deep}}}'),
        ("/threads/search", f'{{"values": {deep}}}'),
        ("/store/items/search", f'{{"namespace_prefix": [], "filter": {deep}}}'),
        ("/runs", f'{{"assistant_id": "echo", "input": {deep}}}'),
        ("/runs/batch", "[" * 5000 + "]" * 5000),
    ):
        answer = ann.post(path, content=body)
        assert answer.status_code == 422
        assert "Internal" not in answer.text


@contextmanager
def lines_held_open(server: Deployment, number: int) -> Any:
    """Connections that have begun a request and never end it."""
    place = urlsplit(server.url)
    held = [socket.create_connection((place.hostname, place.port)) for _ in range(number)]
    try:
        for line in held:
            line.sendall(b"POST /threads HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nX-A: ")
        yield
        for line in held:
            line.sendall(b"a")
    finally:
        for line in held:
            line.close()


def test_callers_that_dawdle_hold_nobody_up(guarded: Deployment, ann: httpx.Client) -> None:
    """A half request costs a connection, not a thread."""
    with lines_held_open(guarded, 200):
        for _ in range(5):
            assert ann.post("/threads", json={}).status_code == 200


PATTERNS = ["%", "_" * 500, "%_" * 500, "\\", "(a+)+$", "a" * 20_000, "'; DROP TABLE thread; --"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_search_words_are_words(ann: httpx.Client, bob: httpx.Client, pattern: str) -> None:
    """No pattern language anywhere: nothing matches everything, nothing takes for ever."""
    namespace = f"n{uuid4().hex}"
    bob.put("/store/items", json={"namespace": [namespace], "key": "k", "value": {"a": SECRET}})
    began = time.monotonic()
    requests: list[tuple[str, Any]] = [
        ("/assistants/search", {"name": pattern}),
        ("/assistants/search", {"metadata": {pattern: pattern}}),
        ("/threads/search", {"metadata": {"a": pattern}}),
        ("/threads/search", {"values": {"a": pattern}}),
        ("/store/items/search", {"namespace_prefix": [pattern[:500].replace(".", "")]}),
        ("/store/items/search", {"namespace_prefix": [], "filter": {"a": pattern}}),
        ("/store/namespaces", {"prefix": [pattern[:500]]}),
        ("/store/namespaces", {"suffix": [pattern[:500]]}),
    ]
    for path, body in requests:
        answer = ann.post(path, json=body)
        assert answer.status_code in {200, 422}, (path, answer.text)
        assert namespace not in answer.text
        assert SECRET not in answer.text
    # Far more than eight quick queries take, far less than one that runs away.
    assert time.monotonic() - began < 30
    assert new_thread(ann)


def test_pages_may_not_be_framed_and_data_are_no_pages(guarded: Deployment) -> None:
    """What browsers are told about answers."""
    with guarded.client(token="ann") as client:
        page = client.get("/docs")
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert "script-src 'self'" in page.headers["content-security-policy"]
        for path in ("/docs", "/docs/start.js", "/ok", f"/threads/{new_thread(client)}"):
            assert client.get(path).headers["x-content-type-options"] == "nosniff"


def test_errors_tell_nothing_about_the_inside(guarded: Deployment) -> None:
    """Neither paths nor names of classes nor the database's words."""
    with guarded.client(token="broken") as client:
        answer = client.post("/threads", json={})
    assert answer.status_code == 500
    for word in ("secret detail", "Traceback", "psycopg", "/app/", ".py", "RuntimeError"):
        assert word not in answer.text


def test_a_redirect_keeps_the_way_to_this_server(guarded: Deployment) -> None:
    """`//host/` would lead a browser away."""
    for path in ("//evil.example/", "///evil.example/", "/\\evil.example/"):
        answer = say(guarded, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for line in answer.split("\r\n"):
            if line.lower().startswith("location:"):
                target = line.split(":", 1)[1].strip()
                assert target.startswith("/")
                assert not target.startswith(("//", "/\\"))
