"""Every failure's answer: `{"detail": sentence}` with the right status (http.md, section 0)."""

from flask import Flask, Response, redirect, request
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response as WerkzeugResponse

from greenroom.contract.endpoint import Reply, dump
from greenroom.errors import AppError, Refused, Unavailable
from greenroom.logs import get_logger

log = get_logger(__name__)


def install(app: Flask) -> None:
    """Register the handlers: ours, Werkzeug's, and the last resort."""
    app.register_error_handler(AppError, answer_app_error)
    app.register_error_handler(HTTPException, answer_http_exception)
    app.register_error_handler(Exception, answer_surprise)


def answer_app_error(error: AppError) -> Response:
    """An error of ours knows its status and its sentence."""
    headers = dict(error.headers) if isinstance(error, Refused) else {}
    if isinstance(error, Unavailable):
        headers["retry-after"] = str(error.retry_after_seconds)
        log.warning("service unavailable", path=request.path, error=repr(error.__cause__ or error))
    elif error.status >= 500:  # noqa: PLR2004 (HTTP's own border)
        log.warning("request failed", path=request.path, error=repr(error), exc_info=error)
    return dump(Reply({"detail": str(error)}, error.status, headers))


def answer_http_exception(error: HTTPException) -> WerkzeugResponse:
    """Unknown paths, wrong methods, bodies too large: Werkzeug's errors in our shape."""
    if isinstance(error, NotFound) and request.path.endswith("/") and request.path != "/":
        query = f"?{request.query_string.decode('latin-1')}" if request.query_string else ""
        # One leading slash only: `//host` in a Location would lead off this server.
        return redirect("/" + request.path.strip("/") + query, 307)
    headers = {}
    if allowed := getattr(error, "valid_methods", None):
        headers["allow"] = ", ".join(sorted(allowed))
    return dump(Reply({"detail": error.name}, error.code or 500, headers))


def answer_surprise(error: Exception) -> Response:
    """A fault of ours: told in the log with its traceback, never to the client."""
    log.error("unexpected fault", path=request.path, method=request.method, exc_info=error)
    return dump(Reply({"detail": "Internal Server Error"}, 500))
