"""Encryption with a key that the owner's handlers guard."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment, get, join, new_thread, start
from keyed import FIRST, SECRET, deploy, files_with, serve, stop

from greenroom.cli.engine import free_port

PLAIN = Path(__file__).parents[1] / "priority" / "project" / "langgraph.json"
PROJECT = Path(__file__).parent / "guarded" / "langgraph.json"
WRAPPED = "SELECT split_part(encode(wrapped, 'escape'), ':', 1) FROM data_key"
KEYS = "SELECT count(*) FROM data_key"


@pytest.fixture
def guarded() -> Iterator[Deployment]:
    """Engines of one's own; the processes are started by the test."""
    yield from deploy(PROJECT)


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployment]:
    """Engines for those that only try to start."""
    yield from deploy(PROJECT)


def begin(
    deployment: Deployment, command: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Start a process that is expected to give up."""
    return subprocess.run(
        [sys.executable, "-P", "-m", *command.split()],
        env=deployment.environment(
            PORT=str(free_port()), GREENROOM_AUTH_TIMEOUT_SECONDS="1", **settings
        ),
        cwd=deployment.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_what_is_stored_can_be_read_with_the_owners_key_alone(guarded: Deployment) -> None:
    """Web, graphs process and worker have one key of data; it lies encrypted beside them."""
    with serve(guarded, LANGGRAPH_AES_KEY=FIRST) as client:
        assert guarded.value(KEYS) == 1
        thread_id = new_thread(client)
        run = start(client, thread_id, "nothing", input={"text": SECRET})
        assert join(client, run)["text"] == SECRET
        item = {"namespace": ["a"], "key": "b", "value": {"text": SECRET}}
        assert client.put("/store/items", json=item).status_code == 204
        assert files_with(guarded, SECRET) == []
    stop(guarded)
    # Without the key of the settings: it was only for what is older.
    with serve(guarded, OWNERS_KEY="new") as client:
        assert guarded.value(WRAPPED) == "new"
        assert guarded.value(KEYS) == 1
        assert client.get(f"/threads/{thread_id}/state").json()["values"]["text"] == SECRET
        assert get(client, run)["kwargs"]["input"]["text"] == SECRET
        assert join(client, start(client, thread_id, "nothing", input={}))["text"] == SECRET
    stop(guarded)
    with serve(guarded, OWNERS_KEY="new", HANDLERS="forgot") as client:
        assert client.get(f"/threads/{thread_id}/state").json()["values"]["text"] == SECRET
    stop(guarded)
    refused = begin(guarded, "greenroom_workers.process", OWNERS_KEY="old", HANDLERS="forgot")
    assert refused.returncode != 0
    assert "encryption.path: decrypt.blob raised PermissionError" in refused.stderr
    refused = begin(guarded, "greenroom_workers.process", OWNERS_KEY="old", HANDLERS="spoils")
    assert refused.returncode != 0
    assert "decrypt.blob's replacement is of no use" in refused.stderr
    assert guarded.value(WRAPPED) == "new"


def test_rows_from_before_the_handlers_stay_readable(guarded: Deployment) -> None:
    """Whether they were encrypted with a key of the settings or not at all."""
    guarded.project = PLAIN
    ids = []
    for settings in ({}, {"LANGGRAPH_AES_KEY": FIRST}):
        with serve(guarded, **settings) as client:
            ids.append(new_thread(client))
            join(client, start(client, ids[-1], "nothing", input={"text": "before"}))
        stop(guarded)
    guarded.project = PROJECT
    with serve(guarded, GREENROOM_AES_OLD_KEYS=FIRST) as client:
        for thread_id in ids:
            assert client.get(f"/threads/{thread_id}/state").json()["values"]["text"] == "before"


@pytest.mark.parametrize(
    ("command", "kind", "sentence"),
    [
        ("greenroom_workers.process", "raises", "encrypt.blob raised RuntimeError"),
        ("greenroom_workers.process", "hangs", "encrypt.blob takes longer than 1 s"),
        ("greenroom_workers.process", "clear", "encrypt.blob does not encrypt"),
        ("greenroom_workers.process", "context", "@encryption.context is not supported"),
        ("greenroom.cli.main web", "exits", "its code ended the process"),
        ("greenroom.cli.main web", "loses", "decrypt.blob does not give back what was encrypted"),
        ("greenroom.cli.main web", "json-half", "it needs both encrypt.json and decrypt.json"),
        ("greenroom.cli.main web", "json-renames", "encrypt.json must give back an object"),
        ("greenroom.cli.main web", "json-loses", "decrypt.json does not give back what was"),
    ],
)
def test_handlers_of_no_use_start_nothing(
    shared: Deployment, command: str, kind: str, sentence: str
) -> None:
    """Rather no server than one whose owner is wrong about what is encrypted."""
    refused = begin(shared, command, HANDLERS=kind)
    assert refused.returncode != 0
    assert f"encryption.path: {sentence}" in refused.stderr + refused.stdout
    assert shared.value(KEYS) == 0
