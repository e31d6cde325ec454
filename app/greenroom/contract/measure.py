"""HTTP figures of this process, under the names that dashboards know."""

import functools
import time

from flask import Flask, Response, g, request
from prometheus_client import Counter, Histogram

from greenroom.contract.api import current_request
from greenroom.contract.inner import INNER

REQUESTS = Counter(
    "lg_api_http_requests", "Requests by method, route and status", ["method", "path", "status"]
)
LATENCY = Histogram(
    "lg_api_http_requests_latency_seconds",
    "Time to the first byte of the answer, by method and route",
    ["method", "path"],
)
KEPT_SERIES = 1024
"""More than there are routes and statuses: finding a series takes longer than counting in it."""

STARTED = "greenroom.started"
"""Where a request's environ says when it came."""

requests_of = functools.lru_cache(KEPT_SERIES)(REQUESTS.labels)
latency_of = functools.lru_cache(KEPT_SERIES)(LATENCY.labels)


def install(app: Flask) -> None:
    """Count every request and time it."""

    @app.before_request
    def start() -> None:
        request.environ[STARTED] = time.perf_counter()

    @app.after_request
    def count(response: Response) -> Response:
        # Found once: each look at Flask's own `request` takes longer than what is looked at.
        asked = current_request()
        environ = asked.environ
        if INNER in environ:
            # Counted where it came in.
            return response
        # The route, not the path: ids would make a series each.
        method, rule = asked.method, asked.url_rule
        path = rule.rule if rule else "unknown"
        if g.get("is_custom"):
            path = "custom"
        requests_of(method, path, response.status_code).inc()
        if (started := environ.get(STARTED)) is not None:
            latency_of(method, path).observe(time.perf_counter() - started)
        return response
