"""HTTP for the server itself: /, /ok, /info (http.md, section 7)."""

import functools
from importlib.metadata import version
from typing import Any

from flask import Blueprint
from sqlalchemy import text

import greenroom
from greenroom.contract.endpoint import Reply, endpoint
from greenroom.contract.fields import Flag, QueryModel
from greenroom.contract.services import services
from greenroom.errors import DatabaseUnavailable

system = Blueprint("system", __name__)


class HealthQuery(QueryModel):
    """Whether to ask the services."""

    check_db: Flag = False


@system.get("/")
@system.get("/ok")
@endpoint(query=HealthQuery, returns=dict[str, Any])
def get_health(query: HealthQuery) -> Reply:
    """Tell that the process answers; with `check_db`, whether what it needs does too."""
    if not query.check_db:
        return Reply({"ok": True, "services": {}})
    states = {"postgres": "ok" if _has_database() else "down"}
    states["redis"] = "ok" if services().signals.is_alive() else "down"
    # Without Redis everything still works, more slowly.
    is_ok = states["postgres"] == "ok"
    answer: dict[str, Any] = {"ok": is_ok, "services": states}
    if is_ok and states["redis"] != "ok":
        answer["degraded"] = True
    return Reply(answer, 200 if is_ok else 503)


@system.get("/info")
@endpoint(returns=dict[str, Any])
def get_info() -> dict[str, Any]:
    """Tell versions and what is switched on."""
    return {
        "version": greenroom.__version__,
        "langgraph_py_version": langgraph_version(),
        "flags": {"assistants": True, "crons": True, "langsmith": False},
        "host": {"kind": "self-hosted", "server": "greenroom"},
    }


@functools.cache
def langgraph_version() -> str:
    """The version of the library that executes the graphs; read without importing it."""
    return version("langgraph")


def _has_database() -> bool:
    try:
        with services().database.statement() as connection:
            return bool(connection.execute(text("SELECT 1")).scalar())
    except DatabaseUnavailable:
        return False
