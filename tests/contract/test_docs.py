"""The page at /docs: complete, and all of it from this server."""

import json
import re
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx

ADDRESS = re.compile(r"(?:https?:)?//[\w.-]+")


class References(HTMLParser):
    """Whatever a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in {"href", "src"} and value]


def test_the_page_and_all_that_it_loads_are_served(http: httpx.Client) -> None:
    """Style, scripts and icon are there, each as what it is."""
    types = {"css": "text/css", "js": "text/javascript", "png": "image/png"}
    page = http.get("/docs")
    references = References()
    references.feed(page.text)

    assert page.headers["content-type"].startswith("text/html")
    assert {name.rpartition(".")[2] for name in references.found} == set(types)
    for name in references.found:
        asset = http.get(urljoin("/docs", name))
        assert asset.status_code == 200, name
        assert asset.headers["content-type"].startswith(types[name.rpartition(".")[2]]), name
        assert asset.content, name


def test_the_page_names_no_other_host(http: httpx.Client) -> None:
    """It works where there is no internet, and tells nobody that it was read."""
    start = http.get("/docs/start.js").text

    assert not ADDRESS.findall(http.get("/docs").text)
    assert not ADDRESS.findall(start)
    assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style_of(http))
    # The validator's badge would send the document's address to another host.
    assert "validatorUrl: null" in start


def test_the_script_loads_the_document_of_this_server(http: httpx.Client) -> None:
    """The address is relative, so that a prefix before both does no harm."""
    script = http.get("/docs/start.js").text
    [address] = re.findall(r"url: '([^']+)'", script)

    answer = http.get(urljoin("/docs", address))

    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.content)["info"]["title"] == "Greenroom"


def test_nothing_else_of_the_package_is_served(http: httpx.Client) -> None:
    """The assets are a list, not a directory."""
    for name in ("index.html", "swagger-ui.css.map", "..%2f__init__.py", "__init__.py"):
        assert http.get(f"/docs/{name}").status_code == 404, name


def style_of(http: httpx.Client) -> str:
    return http.get("/docs/swagger-ui.css").text
