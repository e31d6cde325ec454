"""Whose a request is, and who may make it."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest
from deployment import Deployment
from starlette.applications import Starlette
from starlette.routing import Route
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from greenroom.custom_routes.table import read_table
from greenroom.graphs.custom_app import CustomApp, describe_routes

Serve = Callable[..., AbstractContextManager[httpx.Client]]
AUTH = {"path": "./auth.py:auth"}


@pytest.fixture(scope="module")
def guarded(serve: Serve) -> Iterator[httpx.Client]:
    """Callers of the application's routes are asked who they are."""
    http = {"app": "./app.py:app", "enable_custom_route_auth": True}
    with serve("guarded", auth=AUTH, http=http) as client:
        yield client


@pytest.fixture(scope="module")
def half_open(serve: Serve) -> Iterator[httpx.Client]:
    """Only callers of the server's own routes are."""
    with serve("half-open", auth=AUTH, http={"app": "./app.py:app"}) as client:
        yield client


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


def test_routes_of_the_application_come_first(client: httpx.Client) -> None:
    """One in place of ours counts, by its method; whatever it has not is ours, or nobody's."""
    assert client.post("/threads/count", json={}).json() == "counted by the owner"
    assert isinstance(client.post("/threads/search", json={}).json(), list)
    assert client.get("/threads/count").status_code in {404, 405, 422}
    assert client.get("/ok").json() == {"ok": True, "services": {}}
    assert client.get("/custom/nothing").json() == {"detail": "Not Found"}
    assert client.get("/custom/digest").status_code == 405
    assert client.get("/mounted/nothing").status_code == 404


def test_callers_are_known_where_the_owner_wants_it(guarded: httpx.Client) -> None:
    """With their permissions; nobody else gets in, by whatever method or kind of request."""
    told = guarded.get("/custom/tell", headers=bearer("ann")).json()
    assert told["user"] == ["ann", ["write"]]
    assert told["scopes"] == ["write"]
    assert guarded.get("/custom/tell").status_code == 401
    assert guarded.get("/custom/tell", headers=bearer("mallory")).status_code == 401
    assert guarded.post("/custom/digest", content=b"x").status_code == 401
    assert guarded.options("/custom/tell").status_code == 401
    forged = {"greenroom-request": '{"user": {"identity": "ann"}}'}
    assert guarded.get("/custom/tell", headers=forged).status_code == 401


def test_a_socket_asks_who_calls(guarded: httpx.Client) -> None:
    """Before it is opened."""
    url = str(guarded.base_url).replace("http", "ws", 1)
    with connect(f"{url}/custom/talk", additional_headers=bearer("ann")) as opened:
        assert opened.recv(timeout=30) == "ann"
    with pytest.raises(InvalidStatus) as refused, connect(f"{url}/custom/talk"):
        pass
    assert refused.value.response.status_code == 401


def test_nobody_is_asked_elsewhere(half_open: httpx.Client) -> None:
    """Routes of the application are open then, and a claim to be somebody is not believed."""
    told = half_open.get("/custom/tell", headers=bearer("ann")).json()
    assert told["user"] is None
    forged = {"greenroom-request": '{"user": {"identity": "ann"}}'}
    assert half_open.get("/custom/tell", headers=forged).json()["user"] is None
    assert half_open.post("/threads/search", json={}).status_code == 401


def test_a_route_in_place_of_ours_is_as_closed_as_ours(half_open: httpx.Client) -> None:
    """Even where the application's routes are open."""
    assert half_open.post("/threads/count", json={}).status_code == 401
    answer = half_open.post("/threads/count", json={}, headers=bearer("ann"))
    assert answer.json() == "counted by the owner"


@pytest.mark.parametrize("name", ["search", "count"])
@pytest.mark.parametrize(
    "path", ["//threads/{}", "/threads%2F{}", "/x/../threads/{}", "/THREADS/{}", "/threads/{}%0A"]
)
def test_no_spelling_leads_round_the_door(half_open: httpx.Client, path: str, name: str) -> None:
    """Neither to a route of ours nor to one in its place."""
    address = urlsplit(str(half_open.base_url))
    with closing(HTTPConnection(address.netloc, timeout=60)) as raw:
        # As it is written: other clients tidy paths up.
        raw.request("POST", path.format(name), b"{}", {"content-type": "application/json"})
        answer = raw.getresponse()
        said = answer.read()
    assert answer.status in {401, 404, 405}
    assert b"counted" not in said


def test_a_frameworks_own_description_does_not_hide_ours() -> None:
    """FastAPI has pages at the paths of ours."""
    app = Starlette(routes=[Route(path, endpoint=print) for path in ("/docs", "/mine")])
    app.docs_url = "/docs"  # type: ignore[attr-defined]
    described = describe_routes(CustomApp(app, "./app.py:app"))
    assert described["is_opaque"] is False
    table = read_table(described)
    assert table.has("GET", "/mine", is_socket=False)
    assert not table.has("GET", "/docs", is_socket=False)
    assert table.may_have("/docs", is_socket=False)
    assert not table.may_have("/other", is_socket=False)


def test_a_prefix_is_the_applications_too(
    engines: Deployment, write_project: Callable[..., str]
) -> None:
    """It stands in front of every route; the application is told of it."""
    file = write_project("prefix", http={"app": "./app.py:app", "mount_prefix": "/api"})
    url = engines.start_web(prefix="/api", GREENROOM_CONFIG=file)
    with httpx.Client(base_url=url, timeout=60) as client:
        told = client.get("/api/custom/tell").json()
        assert (told["path"], told["root_path"]) == ("/api/custom/tell", "/api")
        assert client.get("/api/mounted/inner").status_code == 200
        assert client.get("/custom/tell").status_code == 404
        assert client.get("/apicustom/tell").status_code == 404


def test_an_application_without_known_routes_gets_what_is_left(serve: Serve) -> None:
    """Paths that the server does not know, and no others."""
    with serve("plain", http={"app": "./plain.py:app"}) as client:
        assert client.get("/plain/x").text == "plain"
        assert client.get("/other").text == "nothing here"
        assert client.get("/ok").json() == {"ok": True, "services": {}}
        assert client.post("/threads/search", json={}).status_code == 200
        assert client.get("/threads/search").status_code in {405, 422}


def test_what_is_mounted_at_the_root_hides_nothing(serve: Serve) -> None:
    """Routes of ours come first there, through the application's middleware."""
    with serve("middled", http={"app": "./middled.py:app"}) as client:
        assert client.get("/somewhere").text == "page /somewhere"
        assert client.get("/somewhere").headers["x-marked"] == "yes"
        own = client.post("/threads/search", json={})
        assert own.status_code == 200
        assert own.headers["x-marked"] == "yes"


def test_a_body_that_the_handler_has_read_is_passed_on_whole(serve: Serve) -> None:
    """Of a known length and in chunks; one that is too long is refused, not cut off."""
    auth = {"path": "./reading_auth.py:auth"}
    http = {"app": "./app.py:app", "enable_custom_route_auth": True}
    body = b'{"name": "ann", "more": "%b"}' % (b"x" * 200_000)
    expected = hashlib.sha256(body).hexdigest()
    env = {"HTTP_MAX_REQUEST_BODY_BYTES": "300000"}
    with serve("reading", auth=auth, http=http, env=env) as client:
        assert client.post("/custom/digest", content=body).json()["sha256"] == expected
        chunks = [body[:100_000], body[100_000:]]
        assert client.post("/custom/digest", content=iter(chunks)).json()["sha256"] == expected
        assert client.post("/custom/digest", content=iter([*chunks, body])).status_code == 413
        assert client.post("/custom/digest", content=body * 2).status_code == 413
