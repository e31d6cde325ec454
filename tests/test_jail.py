"""Where files may lie that langgraph.json names."""

import json
from pathlib import Path
from typing import Any

import pytest

from greenroom.config import load_project
from greenroom.errors import ConfigError

GRAPHS = {"a": "./agent.py:graph"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project's folder, with another beside it that has files of the same names."""
    for name in ("project", "elsewhere"):
        (tmp_path / name).mkdir()
        for file in ("agent.py", "auth.py", ".env"):
            (tmp_path / name / file).touch()
    return tmp_path / "project"


def load(folder: Path, allowed: str = "", **blocks: Any) -> Path:
    file = folder / "langgraph.json"
    file.write_text(json.dumps({"graphs": GRAPHS, **blocks}))
    return load_project(file, {"GREENROOM_ALLOWED_PATHS": allowed}).directory


OUTSIDE: list[tuple[str, dict[str, Any]]] = [
    ("graphs.b", {"graphs": {**GRAPHS, "b": "../elsewhere/agent.py:graph"}}),
    ("graphs.b", {"graphs": {"b": {"path": "./../elsewhere/agent.py:graph"}}}),
    ("graphs.b", {"graphs": {"b": "/etc/agent.py:graph"}}),
    ("auth.path", {"auth": {"path": "../elsewhere/auth.py:auth"}}),
    ("encryption.path", {"encryption": {"path": "../elsewhere/auth.py:encryption"}}),
    ("priority.path", {"priority": {"path": "../elsewhere/auth.py:priority"}}),
    ("http.app", {"http": {"app": "../elsewhere/auth.py:app"}}),
    ("store.index.embed", {"store": {"index": {"embed": "../elsewhere/auth.py:embed"}}}),
    ("checkpointer.path", {"checkpointer": {"path": "../elsewhere/auth.py:make"}}),
    ("env", {"env": "../elsewhere/.env"}),
]


@pytest.mark.parametrize(("key", "blocks"), OUTSIDE)
def test_a_file_that_lies_elsewhere_is_refused(
    folder: Path, key: str, blocks: dict[str, Any]
) -> None:
    """By a line that names its key and what may be done."""
    with pytest.raises(ConfigError) as refused:
        load(folder, **blocks)
    assert f'"{key}" names /' in str(refused.value)
    assert "GREENROOM_ALLOWED_PATHS" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_symbolic_link_leads_nowhere_else(folder: Path, is_folder: bool) -> None:
    """Of the file itself, or of a folder on the way."""
    if is_folder:
        (folder / "linked").symlink_to(folder.parent / "elsewhere")
        path = "./linked/auth.py:auth"
    else:
        (folder / "linked.py").symlink_to(folder.parent / "elsewhere" / "auth.py")
        path = "./linked.py:auth"
    with pytest.raises(ConfigError, match=r"auth\.path"):
        load(folder, auth={"path": path})


def test_what_belongs_to_the_project_may_be_used(folder: Path) -> None:
    """Its folder, its local dependencies, modules, and providers of embeddings."""
    (folder / "linked.py").symlink_to(folder / "auth.py")
    assert load(folder, auth={"path": "./linked.py:auth"}, env=".env") == folder.resolve()
    load(folder, auth={"path": "package.module:auth"})
    load(folder, store={"index": {"embed": "openai:text-embedding-3-small"}})
    elsewhere: dict[str, Any] = {"auth": {"path": "../elsewhere/auth.py:auth"}}
    load(folder, dependencies=["langchain", "../elsewhere"], **elsewhere)
    with pytest.raises(ConfigError, match=r"auth\.path"):
        load(folder, dependencies=[".", "langchain"], **elsewhere)


def test_the_owner_of_the_environment_may_allow_more(folder: Path) -> None:
    """Folders by a setting; keys that the environment itself gives are not asked about."""
    elsewhere: dict[str, Any] = {"auth": {"path": "../elsewhere/auth.py:auth"}}
    load(folder, "/nowhere:../elsewhere", **elsewhere)
    load(folder, "/", **elsewhere)
    with pytest.raises(ConfigError, match=r"auth\.path"):
        load(folder, "/nowhere", **elsewhere)
    with pytest.raises(ConfigError, match=r"auth\.path"):
        # The file cannot give itself leave.
        load(folder, env={"GREENROOM_ALLOWED_PATHS": "/"}, **elsewhere)
    baked = {"LANGSERVE_GRAPHS": '{"b": "/deps/agent/agent.py:graph"}'}
    assert "b" in load_project(folder / "langgraph.json.missing", baked).graphs
    (folder / "langgraph.json").write_text(json.dumps({"graphs": {"x": "/etc/x.py:g"}}))
    assert "b" in load_project(folder / "langgraph.json", baked).graphs


def test_a_folder_whose_name_begins_alike_is_another(folder: Path) -> None:
    """/srv/project-two is not below /srv/project."""
    twin = folder.parent / "project-two"
    twin.mkdir()
    with pytest.raises(ConfigError, match=r"auth\.path"):
        load(folder, auth={"path": "../project-two/auth.py:auth"})
