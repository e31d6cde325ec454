"""Headers that keep browsers from doing more with an answer than was meant."""

from flask import Flask, Response, g

from greenroom.contract.api import JsonResponse

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""For our page: nothing of another host, no inline scripts. Swagger UI writes inline styles."""


def install(app: Flask) -> None:
    """Add them to every answer of ours."""

    @app.after_request
    def protect(response: Response) -> Response:
        if isinstance(response, JsonResponse) or "is_passed_on" in g:
            # The owner's own pages: they know what these need. Ours have come by here before.
            return response
        headers = response.headers
        # What a graph has produced is never taken for a page or a script.
        headers["x-content-type-options"] = "nosniff"
        if headers.get("content-type", "").startswith("text/html"):
            headers["content-security-policy"] = PAGE_POLICY
            headers["referrer-policy"] = "no-referrer"
        return response
