"""Flask as this API needs it: a request has no session, and no view is a coroutine."""

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Request, Response, request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

JSON_HEADERS = (
    ("content-type", "application/json"),
    ("vary", "Origin, Accept-Encoding"),
    ("x-content-type-options", "nosniff"),
)
"""Of a JsonResponse, for which `cors`, `compression` and `protection` need not add them."""


def current_request() -> Request:
    """The request itself, behind `flask.request`, at which each look takes as long as a call."""
    found: Request = request._get_current_object()  # type: ignore[attr-defined] # noqa: SLF001 (documented by Werkzeug)
    return found


class JsonResponse(Response):
    """An answer that is whole when it is made, and needs nothing more to leave.

    Werkzeug would copy the headers, and look for a Location to correct and a length to work out.
    """

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer as a WSGI application."""
        start_response(self.status, self.headers.to_wsgi_list())
        return () if environ["REQUEST_METHOD"] == "HEAD" else (self.get_data(),)


class NoSessions(SessionInterface):
    """Opens the same empty session for everybody, which nobody can write to."""

    def __init__(self) -> None:
        self.nothing = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Give the session that holds nothing."""
        return self.nothing

    def save_session(self, app: Flask, session: Any, response: Any) -> None:
        """Nothing to keep."""


class Api(Flask):
    """A Flask that leaves out, for each request, what only other applications need.

    What it leaves out takes as long as a small request's own work: see "A short run in the
    background" in docs/performance.md.
    """

    session_interface = NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Every view and hook of ours is a plain function."""
        return func

    def preprocess_request(self) -> Any:
        """Ask the hooks before a request: no blueprint of ours has any of its own."""
        for hook in self.before_request_funcs.get(None, ()):
            if (answer := hook()) is not None:
                return answer
        return None

    def process_response(self, response: Response) -> Response:
        """Let the hooks after it see the answer, the last one first."""
        for hook in reversed(self.after_request_funcs.get(None, ())):
            response = self.ensure_sync(hook)(response)
        return response

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match paths only: no rule of ours asks for a host, and no URL is built."""
        if request is None or "HTTP_UPGRADE" in request.environ:
            return super().create_url_adapter(request)
        return MapAdapter(
            self.url_map,
            server_name=request.host,
            script_name=request.root_path or "/",
            subdomain="",
            url_scheme=request.scheme,
            path_info=request.path,
            default_method=request.method,
            query_args=request.query_string.decode("latin-1"),
        )
