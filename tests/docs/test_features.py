"""The table of features, held against the server's routes and the tests."""

import ast
import re
from collections import Counter
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (?!Capability)(.+?) \|(.*?)\|(.*?)\|(.*?)\|$", re.MULTILINE)
ROUTE = re.compile(r"`([A-Z]+ /\S*)`")
TEST = re.compile(r"`(tests/\S+\.py)::(\w+)`")
ROWS = ROW.findall((ROOT / "docs" / "features.md").read_text())
UNDESCRIBED = {"GET /openapi.json", "GET /docs"}
"""Served, but no operations of the document."""


def served(http: httpx.Client) -> set[str]:
    """What the server's own description names."""
    paths = http.get("/openapi.json").json()["paths"]
    return {
        f"{method.upper()} {path}"
        for path, operations in paths.items()
        for method in operations
        if method in {"get", "post", "put", "patch", "delete"}
    }


def test_each_route_stands_in_one_row(http: httpx.Client) -> None:
    """Who adds a route adds it to the table; who removes one takes it out."""
    named = Counter(route for _, routes, _, _ in ROWS for route in ROUTE.findall(routes))
    assert set(named) == served(http) | UNDESCRIBED
    assert [route for route, times in named.items() if times > 1] == []


@pytest.mark.parametrize("route", sorted(UNDESCRIBED))
def test_what_describes_the_api_is_served(http: httpx.Client, route: str) -> None:
    """The document cannot tell about itself."""
    assert http.get(route.removeprefix("GET ")).status_code == 200


@pytest.mark.parametrize(("capability", "tests"), [(row[0], row[3]) for row in ROWS])
def test_each_row_names_tests_that_exist(capability: str, tests: str) -> None:
    """A test that is renamed is renamed here, too."""
    named = TEST.findall(tests)
    assert named, f"no test shows {capability!r}"
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text())
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        known = {node.name for node in tree.body if isinstance(node, functions)}
        assert name in known, f"{file} has no {name}"


def test_each_row_says_whether_the_reference_has_it() -> None:
    """Or leaves it open, where only the inside is concerned."""
    words = {reference.strip().partition(":")[0] for _, _, reference, _ in ROWS}
    assert words == {"yes", "more", "no", "-"}


def test_each_claim_of_the_threat_model_names_a_test_that_exists() -> None:
    """What stops an attack is shown, or not claimed."""
    text = (ROOT / "SECURITY.md").read_text()
    named = TEST.findall(text)
    assert len(named) > 30
    for file, name in named:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = ast.parse((ROOT / file).read_text()).body
        assert name in {node.name for node in nodes if isinstance(node, functions)}, (file, name)
