"""The snippets of the README and of every page, run as a newcomer would paste them.

Of a page, in order: Python and curl blocks are run, all Python of the page in one namespace. What
stands after "prints", in a plain block or as `code`, must come out. Two kinds of blocks make the
project that is served: JSON with keys of langgraph.json is merged into the example's, and Python
whose first line is `# a/path.py` is written there.
"""

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment

from greenroom.cli.engine import free_port
from greenroom.config import load_config
from greenroom.database.migrate import migrate

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "chat"
TENANTS = ROOT / "examples" / "tenants"
GUARDED = [ROOT / "docs" / "auth.md", TENANTS / "README.md"]
"""Pages whose server asks who calls."""
OPEN = [
    *(ROOT / "README.md", EXAMPLE / "README.md"),
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page not in GUARDED),
]
PAGES = [*OPEN, *GUARDED]
SETTINGS = {"auth", "store", "webhooks", "checkpointer", "http", "priority"}
SECRETS = {
    "GREENROOM_WEBHOOK_SECRET": "a long random text",
    "LG_WEBHOOK_TOKEN": "a token",
    "JWT_SECRET": "thirty-two bytes or more, as the standard wants them",
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w/]+\.py)\n")
PRINTS = re.compile(
    r"\n+prints(?: `(?P<line>[^`\n]+)`|\b[^\n]*\n+```\n(?P<lines>.*?)^```$)",
    re.MULTILINE | re.DOTALL,
)
# Every failure of a request is one of the snippet; -q leaves a developer's ~/.curlrc alone.
SHELL = 'curl() { command curl -q --fail-with-body -sS --max-time 60 "$@"; }\n'
SERVER, RECEIVER = "127.0.0.1:2024", "9000"


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block of a page."""

    page: Path
    line: int
    """Of its first line of code."""
    kind: str
    """python, shell, file, settings; or empty: nothing that can be run."""
    code: str
    output: str | None
    """What the page says that it prints; None where it says nothing."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets_of(page: Path) -> list[Snippet]:
    text = page.read_text()
    found = []
    for block in FENCE.finditer(text):
        language, code = block.groups()
        line = text.count("\n", 0, block.start(2)) + 1
        output = None
        if prints := PRINTS.match(text, block.end()):
            output = prints["lines"] or f"{prints['line']}\n"
        found.append(Snippet(page, line, kind_of(language, code), code, output))
    return found


def kind_of(language: str, code: str) -> str:
    match language:
        case "python":
            return "file" if FILE.match(code) else "python"
        case "" | "sh" if re.search(r"^curl ", code, re.MULTILINE):
            return "shell"
        case "json" if json.loads(code).keys() <= SETTINGS:
            return "settings"
    return ""


def merge(project: dict[str, Any], settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, dict):
            merge(project.setdefault(key, {}), value)
        else:
            assert project.setdefault(key, value) == value, f"two pages differ about {key}"


@pytest.fixture(scope="module")
def addresses_of_open() -> Iterator[dict[str, str]]:
    """The example with what the pages add to it, served: the addresses in place of the pages'."""
    yield from serve(EXAMPLE, OPEN)


@pytest.fixture(scope="module")
def addresses_of_guarded() -> Iterator[dict[str, str]]:
    """The same of the example with tenants."""
    yield from serve(TENANTS, GUARDED)


def serve(example: Path, pages: list[Path]) -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        file = make_project(directory / "project", example, pages)
        with Deployment(directory / "server", file, **SECRETS) as made:
            # Once more: the tables of search by meaning are made for a project that wants them.
            migrate(load_config(file, made.environment()))
            made.start_web()
            made.start_worker()
            yield {SERVER: made.url.removeprefix("http://"), RECEIVER: str(free_port())}


def make_project(directory: Path, example: Path, pages: list[Path]) -> Path:
    """The example, with the settings and files of the pages; its langgraph.json."""
    shutil.copytree(example, directory, ignore=shutil.ignore_patterns("node_modules", "dist"))
    file = directory / "langgraph.json"
    project = json.loads(file.read_text())
    for snippet in (snippet for page in pages for snippet in snippets_of(page)):
        if snippet.kind == "settings":
            merge(project, json.loads(snippet.code))
        elif snippet.kind == "file":
            name = FILE.match(snippet.code)[1]
            (directory / name).write_text(snippet.code)
    file.write_text(json.dumps(project))
    return file


def has_runnable(page: Path) -> bool:
    return any(snippet.kind in {"python", "shell"} for snippet in snippets_of(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_promise_to_print_is_checked(page: Path) -> None:
    """None slips through because it is written in another way."""
    checked = [s for s in snippets_of(page) if s.output and s.kind in {"python", "shell"}]
    assert len(checked) == len(re.findall(r"^prints\b", page.read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    "page", [*filter(has_runnable, PAGES)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_snippet_of_a_page_works(
    page: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasted one after another, each does what the page says."""
    kind = "guarded" if page in GUARDED else "open"
    addresses: dict[str, str] = request.getfixturevalue(f"addresses_of_{kind}")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for snippet in snippets_of(page):
        code = snippet.code
        for written, real in addresses.items():
            code = code.replace(written, real)
        if snippet.kind == "python":
            printed = run_python(snippet, code, namespace)
        elif snippet.kind == "shell":
            printed = run_shell(snippet, code)
        else:
            continue
        if snippet.output is not None:
            assert printed == snippet.output, f"{snippet.place} prints something else"


def run_python(snippet: Snippet, code: str, namespace: dict[str, Any]) -> str:
    # Empty lines in front: a traceback names the line of the page.
    lines = "\n" * (snippet.line - 1) + code
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(lines, str(snippet.page), "exec"), namespace)
    return printed.getvalue()


def run_shell(snippet: Snippet, code: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", SHELL + code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{snippet.place}: {done.stdout}{done.stderr}"
    print(done.stdout, file=sys.stderr)
    return done.stdout
