"""Cross-origin requests: what browsers ask before and read after (Fetch standard, section 3.3)."""

import re
from urllib.parse import urlsplit

from flask import Flask, Response, request

from greenroom.config import Cors

METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD"
EXPOSED = ("x-pagination-total", "x-pagination-next", "content-location", "location")


def allowed_origin(cors: Cors, origin: str) -> str | None:
    """The value of allow-origin for this origin; None refuses it. Credentials never go with `*`."""
    if "*" in cors.allow_origins and not cors.allow_credentials:
        return "*"
    pattern = cors.allow_origin_regex
    if origin in cors.allow_origins or (pattern and re.fullmatch(pattern, origin)):
        return origin
    return None


def may_open_socket(cors: Cors, origin: str | None, host: str) -> bool:
    """Whether a WebSocket may be opened: browsers do not ask before, so the server looks."""
    is_own = not origin or urlsplit(origin).netloc == host
    return is_own or allowed_origin(cors, origin or "") is not None


def install(app: Flask, cors: Cors) -> None:
    """Answer preflights and mark every other answer."""
    exposed = ", ".join(dict.fromkeys([*EXPOSED, *(name.lower() for name in cors.expose_headers)]))

    @app.before_request
    def answer_preflight() -> Response | None:
        if request.method != "OPTIONS":
            return None
        origin = request.headers.get("origin")
        if not origin or not request.headers.get("access-control-request-method"):
            return None
        if allowed_origin(cors, origin) is None:
            return Response("Disallowed CORS origin", 400)
        response = Response(status=200)
        headers = response.headers
        everything = "*" in cors.allow_methods
        headers["access-control-allow-methods"] = (
            METHODS if everything else ", ".join(cors.allow_methods)
        )
        asked = request.headers.get("access-control-request-headers")
        if "*" not in cors.allow_headers:
            headers["access-control-allow-headers"] = ", ".join(cors.allow_headers)
        elif asked:
            headers["access-control-allow-headers"] = asked
        headers["access-control-max-age"] = str(cors.max_age_seconds)
        return response

    @app.after_request
    def mark(response: Response) -> Response:
        if "Origin" not in response.headers.get("vary", ""):
            response.vary.add("Origin")
        origin = request.environ.get("HTTP_ORIGIN")
        value = allowed_origin(cors, origin) if origin else None
        if value is not None:
            response.headers["access-control-allow-origin"] = value
            response.headers["access-control-expose-headers"] = exposed
            if cors.allow_credentials:
                response.headers["access-control-allow-credentials"] = "true"
        return response
