"""gzip for large JSON answers; never for streams, which must leave event by event."""

import gzip

from flask import Flask, Response, request

from greenroom.contract.api import JsonResponse

SMALLEST_BYTES = 4096
"""Below this the headers cost more than the compression saves."""
LEVEL = 1
"""JSON shrinks to nearly as little at the quickest level, and the loop is not held up."""


def install(app: Flask) -> None:
    """Compress what is worth it, for clients that take it."""

    @app.after_request
    def compress(response: Response) -> Response:
        if not isinstance(response, JsonResponse):
            if response.headers.get("content-type") != "application/json" or response.is_streamed:
                return response
            response.headers["vary"] = "Origin, Accept-Encoding"
        data = response.get_data()
        if len(data) < SMALLEST_BYTES:
            return response
        if not request.accept_encodings.best_match(["gzip"]):
            return response
        response.set_data(gzip.compress(data, LEVEL))
        response.headers["content-encoding"] = "gzip"
        return response
