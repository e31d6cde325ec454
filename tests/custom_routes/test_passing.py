"""What passes between a client and the owner's application: everything, piece by piece."""

import hashlib
import json
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from deployment import Deployment, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect


def notes(client: httpx.Client, note: str) -> int:
    """How often the application noticed something."""
    found: list[str] = client.get("/custom/notes").json()
    return found.count(note)


def test_a_request_arrives_as_it_was_sent(client: httpx.Client) -> None:
    """Path, query and headers, the client's address, and what the lifespan made."""
    headers = {"x-own": "ünï".encode("latin-1"), "greenroom-request": "{}", "te": "trailers"}
    answer = client.get("/custom/tell?a=%20b&a=c", headers=headers)
    told = answer.json()
    assert (told["path"], told["query"], told["root_path"]) == ("/custom/tell", "a=%20b&a=c", "")
    assert told["state"] == "from the lifespan"
    assert told["client"][0] == "127.0.0.1"
    assert told["client"][1] > 0
    assert told["user"] is None
    names = [name for name, _ in told["headers"]]
    assert ["x-own", "ünï"] in told["headers"]
    assert ["host", urlsplit(str(client.base_url)).netloc] in told["headers"]
    assert not {"greenroom-request", "te"} & set(names)
    assert client.get("/mounted/inner").json()["path"] == "/mounted/inner"


def test_headers_of_an_answer_stay_apart(client: httpx.Client) -> None:
    """Two cookies are two headers; what is the connection's goes no further."""
    answer = client.get("/custom/cookies", headers={"origin": "https://somewhere.example"})
    assert [each.partition(";")[0] for each in answer.headers.get_list("set-cookie")] == [
        "a=1",
        "b=2",
    ]
    assert {each.strip() for each in answer.headers["vary"].split(",")} == {"Accept", "Origin"}
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "keep-alive" not in answer.headers
    assert len(answer.headers.get_list("date")) == 1
    head = client.head("/custom/cookies")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "4")


def test_pages_of_the_owner_may_have_scripts(client: httpx.Client) -> None:
    """Our policy is for our page."""
    assert "content-security-policy" not in client.get("/custom/page").headers
    assert "content-security-policy" in client.get("/docs").headers


def test_a_header_cannot_become_two(client: httpx.Client) -> None:
    """An answer with a line break in a header is none."""
    answer = client.get("/custom/inject")
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers
    assert "x-bad" not in answer.headers


def test_bodies_pass_through_whole(client: httpx.Client) -> None:
    """Of a length that is known, and in chunks."""
    body = b"0123456789" * 150_000
    expected = hashlib.sha256(body).hexdigest()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    assert client.post("/custom/digest", content=body).json()["sha256"] == expected
    chunked = client.post("/custom/digest", content=pieces()).json()
    assert chunked["sha256"] == expected
    assert chunked["pieces"] > 1
    empty = client.post("/custom/digest").json()["sha256"]
    assert empty == hashlib.sha256(b"").hexdigest()


def test_a_body_that_is_too_long_is_refused(client: httpx.Client) -> None:
    """Before it is read, or as soon as it has grown too long."""
    assert client.post("/custom/digest", content=b"x" * 2_000_001).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 100_000

    assert client.post("/custom/digest", content=pieces()).status_code == 413
    until(lambda: notes(client, "digest broken off"))


def test_events_arrive_one_by_one(client: httpx.Client, custom: str) -> None:
    """The first before the second has been made."""
    with client.stream("GET", "/custom/ticks") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert next(lines) == "data: first"
        assert httpx.post(f"{custom}/custom/release").status_code == 204
        assert [line for line in lines if line] == ["data: second"]


def test_a_client_that_leaves_is_noticed(engines: Deployment) -> None:
    """While it is streamed to, and while the application still thinks about its answer."""
    url = engines.start_web()
    with httpx.Client(base_url=url, timeout=60) as client:
        with client.stream("GET", "/custom/ticks") as response:
            # Kept: httpx closes the connection when its iterator is let go.
            lines = response.iter_lines()
            assert next(lines) == "data: first"
            assert notes(client, "ticks over") == 0
        until(lambda: notes(client, "ticks over") == 1)
        address = urlsplit(url)
        with closing(socket.create_connection((address.hostname, address.port))) as raw:
            raw.sendall(b"GET /custom/wait HTTP/1.1\r\nhost: x\r\n\r\n")
            until(lambda: notes(client, "waiting"))
            assert notes(client, "wait left") == 0
        until(lambda: notes(client, "wait left") == 1)


def test_an_upload_that_breaks_off_is_noticed(client: httpx.Client) -> None:
    """The application does not take half a body for a whole one."""
    before = notes(client, "digest broken off")
    address = urlsplit(str(client.base_url))
    with closing(socket.create_connection((address.hostname, address.port))) as raw:
        raw.sendall(b"POST /custom/digest HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf")
    until(lambda: notes(client, "digest broken off") > before)


def test_an_application_that_raises_is_a_500(engines: Deployment, client: httpx.Client) -> None:
    """With a line in the log, nothing of it in the answer, and the server going on."""
    for path in ("/custom/fail", "/custom/leave"):
        before = engines.count_log("custom route raised")
        answer = client.get(path)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        until(lambda before=before: engines.count_log("custom route raised") > before)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/custom/fail-late")
    assert client.get("/custom/tell").status_code == 200


def test_an_application_that_blocks_holds_nobody_else_up(
    engines: Deployment, client: httpx.Client
) -> None:
    """Neither the API nor the drawing of graphs in the same process."""
    flag = engines.directory / "go-on.flag"
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(client.get, f"/custom/block?flag={flag}")
        until(flag.with_suffix(".begun").exists)
        assert client.post("/threads", json={}).status_code == 200
        (found,) = client.post("/assistants/search", json={"graph_id": "echo"}).json()
        graph = client.get(f"/assistants/{found['assistant_id']}/graph")
        assert graph.status_code == 200
        assert not blocked.done()
        flag.touch()
        assert blocked.result(60).text == "done"


def test_a_socket_passes_through(client: httpx.Client, custom: str) -> None:
    """Both ways, to its end; one that the application refuses is not opened."""
    url = custom.replace("http", "ws", 1)
    with connect(f"{url}/custom/talk", open_timeout=30) as opened:
        assert opened.recv(timeout=30) == "nobody"
        for said in ("a", "b" * 300_000):
            opened.send(said)
            assert opened.recv(timeout=30) == f"{said} {said}"
    until(lambda: notes(client, "socket over"))
    with pytest.raises(InvalidStatus) as refused, connect(f"{url}/custom/refuse"):
        pass
    assert refused.value.response.status_code == 403


def test_streams_and_sockets_end_with_the_server(engines: Deployment) -> None:
    """A stop does not wait for what has no end, and the lifespan is left."""
    url = engines.start_web()
    process = engines.webs[url]
    over = engines.count_log("lifespan over")
    with (
        httpx.stream("GET", f"{url}/custom/ticks", timeout=60) as response,
        connect(f"{url.replace('http', 'ws', 1)}/custom/talk") as opened,
    ):
        lines = response.iter_lines()
        assert next(lines) == "data: first"
        assert opened.recv(timeout=30) == "nobody"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
        with pytest.raises(ConnectionClosed):
            opened.recv(timeout=30)
    assert process.wait(30) == 0
    assert engines.count_log("lifespan over") == over + 1
    assert engines.count_log("killing") == 0


def test_without_the_graphs_process_its_routes_are_a_503(engines: Deployment) -> None:
    """The API goes on, and its successor serves them again."""
    url = engines.start_web()
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/custom/tell").status_code == 200
        children = psutil.Process(engines.webs[url].pid).children()
        (graphs,) = (each for each in children if "graphs" in each.cmdline())
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(httpx.get, f"{url}/custom/wait", timeout=60)
            until(lambda: notes(client, "waiting"))
            graphs.kill()
            lost = waiting.result(60)
        assert (lost.status_code, lost.headers["retry-after"]) == (503, "2")
        assert client.post("/threads", json={}).status_code == 200
        until(lambda: client.get("/custom/tell").status_code == 200, 60)


def test_an_application_that_does_not_start_stops_the_server(
    engines: Deployment, write_project: Callable[..., str]
) -> None:
    """One line says why, and the exit code that it did not work."""
    for path, reason in (
        ("./doomed.py:app", "http.app: ./doomed.py:app does not start: RuntimeError: no licence"),
        ("./doomed.py:not_an_app", "http.app: ./doomed.py:not_an_app is a int, not an ASGI"),
        ("./doomed.py:nothing", "http.app: there is no 'nothing'"),
    ):
        file = write_project("doomed", http={"app": path})
        assert engines.run_doomed_web(GREENROOM_CONFIG=file) == 1
        assert f"greenroom: {reason}" in engines.log.read_text()


def test_the_description_of_the_api_stays_ours(client: httpx.Client) -> None:
    """Routes of an owner are not in it."""
    paths = json.loads(client.get("/openapi.json").text)["paths"]
    assert "/threads" in paths
    assert not [path for path in paths if path.startswith("/custom")]
