"""A request's body, for whoever asks for it first and for all who ask again."""

from flask import Request

from greenroom.contract.api import current_request
from greenroom.errors import BodyTooLarge

BODY = "greenroom.body"
"""Where a request's environ keeps it."""


def read_body() -> bytes:
    """The body of this request, whole.

    Werkzeug would read it through a stream of its own, in three pieces, and know its length before.

    Raises:
        BodyTooLarge: it is longer than HTTP_MAX_REQUEST_BODY_BYTES.
    """
    asked = current_request()
    kept: bytes | None = asked.environ.get(BODY)
    if kept is None:
        kept = asked.environ[BODY] = _read(asked)
    return kept


def _read(asked: Request) -> bytes:
    length, limit = asked.content_length, asked.max_content_length
    stream = asked.environ["wsgi.input"]
    if length is not None:
        if limit is not None and length > limit:
            raise BodyTooLarge("Request Entity Too Large")
        body: bytes = stream.read(length)
        return body
    # A chunked one, which Werkzeug cuts off there without a word; or none.
    body = asked.get_data(cache=False)
    if stream.read(1):
        raise BodyTooLarge("Request Entity Too Large")
    return body
