"""What the documents say, held against the code."""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from greenroom.config import load_project
from greenroom.graphs.registry import load_registry

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md")
    for page in ROOT.glob(pattern)
    if "node_modules" not in page.parts
)
PROJECTS = sorted(
    [*ROOT.glob("examples/*/langgraph.json"), *ROOT.glob("benchmarks/*/langgraph.json")]
)
READERS = {"read", "outer", "environment"}
"""What config.py calls the things in which it looks a name up."""
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def settings_of_config() -> set[str]:
    """The names that config.py reads from the environment."""
    tree = ast.parse((ROOT / "app/greenroom/config.py").read_text())
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=reader)),
                args=[ast.Constant(value=str(name)), *_],
            ) if reader in READERS:
                found.add(name)
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Tuple(elts=names)):
                if target.endswith("_NAMES"):
                    found |= {ast.literal_eval(name) for name in names}
    return found


def settings_of_readme() -> set[str]:
    """The names of the table: the first column, and those that are read in place of one."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    found = set()
    for row in re.findall(r"^\| `.*$", section, re.MULTILINE):
        first, rest = row.split("|")[1], "|".join(row.split("|")[2:])
        found |= set(re.findall(r"`([A-Z][A-Z0-9_]*)`", first))
        found |= set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", rest))
    return found


def snippets(language: str) -> list[Any]:
    return [
        pytest.param(code, id=f"{name_of(page)}-{number}")
        for page in PAGES
        for number, (kind, code) in enumerate(SNIPPET.findall(page.read_text()), 1)
        if kind == language
    ]


def anchors_of(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_lists_every_setting_and_no_other() -> None:
    """Who adds a setting writes it down; who removes one takes its line out."""
    assert settings_of_readme() == settings_of_config()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """A file or heading that a page points to exists."""
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path) if path else page
        assert target.exists(), f"{path} does not exist"
        if anchor:
            assert anchor in anchors_of(target), f"{path} has no heading #{anchor}"


@pytest.mark.parametrize("file", PROJECTS, ids=name_of)
def test_every_graph_of_an_example_loads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What people copy begins in working order."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = load_project(file, {})
    registry = load_registry(project)
    assert registry.broken == {}
    assert set(registry.loaded) == set(project.graphs)


@pytest.mark.parametrize("code", snippets("python"))
def test_python_snippets_compile(code: str) -> None:
    """They can be pasted."""
    compile(code, "snippet", "exec")


@pytest.mark.parametrize("code", snippets("json"))
def test_json_snippets_parse(code: str) -> None:
    """They can be pasted, too."""
    json.loads(code)
