"""HTTP for the server itself: /, /ok, /info (http.md, section 7)."""

import functools
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Literal

from flask import Blueprint, Response, current_app, send_from_directory
from sqlalchemy import text

import greenroom
from greenroom import wire
from greenroom.auth.questions import OPEN
from greenroom.auth.settings import describe_security
from greenroom.contract.endpoint import Reply, endpoint
from greenroom.contract.fields import Flag, QueryModel
from greenroom.contract.openapi import build_document
from greenroom.contract.services import services
from greenroom.errors import DatabaseUnavailable, NotFound
from greenroom.system import metrics

system = Blueprint("system", __name__)
health = Blueprint("health", __name__)
"""What is left of it for whoever watches the process, when the rest is switched off."""

ASSETS_FOLDER = str(files("flask_swagger_ui").joinpath("dist"))
ASSETS = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"})
DOCS_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Greenroom API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# Without a validator: Swagger UI's own is another host's.
DOCS_SCRIPT = """SwaggerUIBundle({
  url: 'openapi.json', dom_id: '#docs', deepLinking: true, validatorUrl: null
});
"""


class MetricsQuery(QueryModel):
    """In which form."""

    format: Literal["prometheus", "json"] = "prometheus"


class HealthQuery(QueryModel):
    """How thoroughly to look."""

    check_db: Flag = False
    """Ask the database and Redis, too."""


@health.get("/ok")
@system.get("/", endpoint="get_root")
@system.get("/ok")
@endpoint(access=OPEN, query=HealthQuery, returns=dict[str, Any])
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


@system.get("/metrics")
@endpoint(access=OPEN, query=MetricsQuery, returns=dict[str, Any], also_text=True)
def get_metrics(query: MetricsQuery) -> Reply | Response:
    """Tell how the queue, the workers and this API are doing: Prometheus text, or JSON."""
    app = services()
    queue, workers = metrics.read_queue(app.database)
    if query.format == "json":
        api = {"active_streams": app.relay.stream_count}
        return Reply({"queue": queue, "workers": workers, "api": api})
    text_form = metrics.render(queue, workers, app.relay.stream_count)
    return Response(text_form, content_type=metrics.CONTENT_TYPE)


@system.get("/info")
@endpoint(access=OPEN, returns=dict[str, Any])
def get_info() -> dict[str, Any]:
    """Tell versions and what is switched on."""
    return {
        "version": greenroom.__version__,
        "langgraph_py_version": langgraph_version(),
        "flags": {"assistants": True, "crons": True, "langsmith": False},
        "host": {"kind": "self-hosted", "server": "greenroom"},
    }


@system.get("/openapi.json")
def get_openapi() -> Response:
    """The OpenAPI document of this very server."""
    app = current_app.extensions
    document: bytes | None = app.get("openapi")
    if document is None:
        config = services().config
        own = describe_security(config)
        document = wire.dumps(build_document(current_app, config.mount_prefix, own))
        app["openapi"] = document
    describe = app.get("custom_description")
    if describe is not None:
        document = describe(document)
    return Response(document, content_type="application/json")


@system.get("/docs")
def get_docs() -> Response:
    """The API, to read and to try; everything on the page comes from this server."""
    return Response(DOCS_PAGE, content_type="text/html; charset=utf-8")


@system.get("/docs/start.js")
def get_docs_script() -> Response:
    """What starts the page: a file, so that a content security policy may forbid inline code."""
    return Response(DOCS_SCRIPT, content_type="text/javascript; charset=utf-8")


@system.get("/docs/<name>")
def get_docs_asset(name: str) -> Response:
    """A file of the page."""
    if name not in ASSETS:
        raise NotFound
    return send_from_directory(ASSETS_FOLDER, name, max_age=3600)


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
