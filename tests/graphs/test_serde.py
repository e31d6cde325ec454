"""What a checkpoint, a request or a store item can make of itself when it is read: data, only."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import ormsgpack
import pytest
from deployment import join, new_thread, start
from langgraph.checkpoint.serde.jsonplus import EXT_CONSTRUCTOR_SINGLE_ARG, JsonPlusSerializer

from greenroom.config import Project
from greenroom.errors import ConfigError
from greenroom.graphs.serde import Serializer, make_serde

SMUGGLED = [
    {"lc": 1, "type": "secret", "id": ["DATABASE_URI"]},
    {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain_core", "messages", "HumanMessage"],
        "kwargs": {"content": "hi"},
    },
    {"lc": 2, "type": "constructor", "id": ["pathlib", "Path"], "args": ["/etc/passwd"]},
    {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": ["true"]},
]


@dataclass
class Note:
    """A class that no list names unless the test does."""

    text: str


def serde_of(**block: Any) -> Serializer:
    raw = {"checkpointer": {"serde": block}}
    return make_serde(Project(directory=Path(), graphs={}, raw=raw))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    """A row that names a function to call with an argument is read as that argument."""
    file = tmp_path / "ran"
    call = ormsgpack.packb(("subprocess", "getoutput", f"touch {file}"))
    row = "msgpack", ormsgpack.packb(ormsgpack.Ext(EXT_CONSTRUCTOR_SINGLE_ARG, call))
    # What would happen: langgraph's serializer where everything is allowed.
    JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(row)
    assert file.exists()
    file.unlink()
    for serde in (serde_of(), serde_of(allowed_msgpack_modules=[["my_agent", "Note"]])):
        serde.loads_typed(row)
        assert not file.exists()


def test_pickle_is_never_read_or_written() -> None:
    """Not even on demand."""
    with pytest.raises(NotImplementedError):
        serde_of().loads_typed(("pickle", pickle.dumps(1)))
    with pytest.raises(ConfigError, match="pickle_fallback"):
        serde_of(pickle_fallback=True)


def test_the_owners_list_lets_a_class_through() -> None:
    """By its full name; without it the data stay data."""
    row = serde_of().dumps_typed(Note("x"))
    assert not isinstance(serde_of().loads_typed(row), Note)
    allowed = [[*Note.__module__.split("."), "Note"]]
    assert serde_of(allowed_msgpack_modules=allowed).loads_typed(row) == Note("x")
    assert serde_of(allowed_msgpack_modules=True).loads_typed(row) == Note("x")
    extended = serde_of().with_msgpack_allowlist([(Note.__module__, "Note")])
    assert isinstance(extended, Serializer)
    assert extended.loads_typed(row) == Note("x")


@pytest.mark.parametrize(
    "block",
    [
        {"allowed_msgpack_modules": "all"},
        {"allowed_msgpack_modules": ["my_agent"]},
        {"allowed_json_modules": [[]]},
        {"allowed_json_modules": [[1]]},
    ],
)
def test_a_wrong_list_is_refused(block: Any) -> None:
    """At the start, by the key."""
    with pytest.raises(ConfigError, match="allowed_"):
        serde_of(**block)


@pytest.mark.parametrize("smuggled", SMUGGLED)
def test_what_looks_like_a_constructor_stays_data(
    http: httpx.Client, smuggled: dict[str, Any]
) -> None:
    """In a run's input, a state update, a resumed answer and a store item."""
    thread_id = new_thread(http)
    run = start(http, thread_id, "echo", input={"text": "x", "trail": [smuggled]})
    assert join(http, run)["trail"][0] == smuggled
    update = {"values": {"trail": [smuggled]}}
    assert http.post(f"/threads/{thread_id}/state", json=update).status_code == 200
    state = http.get(f"/threads/{thread_id}/state").json()
    assert state["values"]["trail"][-1] == smuggled
    namespace = [f"n{uuid4().hex}"]
    item = {"namespace": namespace, "key": "k", "value": {"it": smuggled}}
    assert http.put("/store/items", json=item).status_code == 204
    found = http.get(f"/store/items?namespace={namespace[0]}&key=k").json()
    assert found["value"] == {"it": smuggled}
