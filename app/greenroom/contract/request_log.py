"""A line in the log for each request, with the headers that the owner asks for."""

import time

from flask import Flask, Response, g, request

from greenroom.contract.http_settings import HeaderRules
from greenroom.contract.inner import inner_request
from greenroom.logs import bind_fields, get_logger

log = get_logger(__name__)

LONGEST_VALUE = 512
"""Characters of a header; a client could fill the log with it."""


def install(app: Flask, rules: HeaderRules) -> None:
    """Log every request; what else is logged on its behalf carries its headers, too."""

    @app.before_request
    def bind() -> None:
        g.logged_since = time.perf_counter()
        chosen = rules.choose(request.headers.items())
        # A connection's greenlet serves its next request, too: what was bound is replaced.
        bind_fields(headers={name: value[:LONGEST_VALUE] for name, value in chosen.items()})

    @app.after_request
    def tell(response: Response) -> Response:
        if inner_request() is not None:
            # It has its line where it came in.
            return response
        since = g.get("logged_since")
        log.info(
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            seconds=None if since is None else round(time.perf_counter() - since, 4),
        )
        return response
