"""The JavaScript clients: in Node, and the example's page in a browser."""

import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "js"
EXAMPLE = ROOT / "examples" / "chat"
PAGE = EXAMPLE / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def go_without(reason: str) -> None:
    """Skip on a developer's machine; in CI everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(folder: Path, *command: str, seconds: int = 600) -> str:
    """Run a command; its output is the message of a failure."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return done.stdout


def install(folder: Path) -> None:
    """Install the pinned packages, once; later runs need no network."""
    if not shutil.which("npm"):
        go_without("npm is not installed")
    done, wanted = folder / "node_modules" / "installed", (folder / "package.json").read_text()
    if not done.exists() or done.read_text() != wanted:
        options = ("--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")
        run(folder, "npm", "install", *options)
        done.write_text(wanted)


@pytest.fixture(scope="module")
def scripts() -> Path:
    """The scripts with the client that they use."""
    install(SCRIPTS)
    return SCRIPTS


@pytest.fixture(scope="module")
def browser() -> str:
    """The path of a Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        go_without(f"no browser is installed: none of {', '.join(BROWSERS)}")
    return str(found)


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The address of the example's page, on another origin than the server's."""
    install(PAGE)
    run(PAGE, "npm", "run", "build", "--", "--minify", "false")
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=PAGE / "dist")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def chat(deployment: Deployment) -> str:
    """The address of the example's graphs, behind two web processes."""
    deployment.project = EXAMPLE / "langgraph.json"
    deployment.migrate()
    deployment.settings["WEB_CONCURRENCY"] = "2"
    url = deployment.start_web()
    deployment.start_worker()
    deployment.start_worker()
    return url


@pytest.mark.timeout(900)
def test_thread_streams_in_node(scripts: Path, chat: str) -> None:
    """Messages, tools, interrupts, branches, and a connection that breaks again and again."""
    assert "FAILED" not in run(scripts, "node", "threads.mjs", chat)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_the_page_in_a_browser(
    scripts: Path, browser: str, page: str, chat: str, tmp_path: Path, transport: str
) -> None:
    """Tokens, a tool, a question, a reload amid an answer, stop, a branch."""
    command = ["node", "browser.mjs", page, chat, browser, str(tmp_path), transport]
    assert "the page works" in run(scripts, *command)
    assert len(list(tmp_path.glob("*.png"))) == 8
