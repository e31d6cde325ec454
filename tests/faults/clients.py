"""Clients that do not give up: what fails is sent again, to the other web process."""

import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from itertools import count
from typing import Any
from uuid import uuid4

import httpx

STREAM = "text/event-stream"
PAUSE_SECONDS = 0.1


class Failover(httpx.BaseTransport):
    """Sends each request to the next web process; again elsewhere when it fails or gets a 503.

    A stream counts as answered with its headers: where it breaks is the reader's business.
    """

    def __init__(self, urls: Sequence[str], *, patience_seconds: float = 60) -> None:
        self.urls = [httpx.URL(url) for url in urls]
        self.patience_seconds = patience_seconds
        self.repeats = 0
        """How many attempts failed."""
        self._transport = httpx.HTTPTransport(limits=httpx.Limits(max_connections=None))
        self._turn = count()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See the base class."""
        body = request.read()
        give_up_at = time.monotonic() + self.patience_seconds
        while True:
            try:
                response = self._send_once(request, body)
            except httpx.TransportError:
                if time.monotonic() > give_up_at:
                    raise
            else:
                is_refused = response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
                if not is_refused or time.monotonic() > give_up_at:
                    return response
            with self._lock:
                self.repeats += 1
            time.sleep(PAUSE_SECONDS)

    def close(self) -> None:
        """See the base class."""
        self._transport.close()

    def _send_once(self, request: httpx.Request, body: bytes) -> httpx.Response:
        with self._lock:
            target = self.urls[next(self._turn) % len(self.urls)]
        url = request.url.copy_with(host=target.host, port=target.port)
        response = self._transport.handle_request(
            httpx.Request(
                request.method,
                url,
                headers=request.headers,
                content=body,
                extensions=request.extensions,
            )
        )
        if not response.headers.get("content-type", "").startswith(STREAM):
            try:
                response.read()
            finally:
                response.close()
        return response


def retrying(urls: Sequence[str]) -> httpx.Client:
    """A client of several web processes."""
    return httpx.Client(base_url="http://greenroom", transport=Failover(urls), timeout=60)


def new_thread_once(http: httpx.Client) -> str:
    """Make a thread; asked twice, it is made once."""
    thread_id = str(uuid4())
    answer = http.post("/threads", json={"thread_id": thread_id, "if_exists": "do_nothing"})
    assert answer.status_code == HTTPStatus.OK, answer.text
    return thread_id


def post_once(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """Create a run, or create and wait; asked twice, it is one run."""
    answer = http.post(path, json=body, headers={"idempotency-key": str(uuid4())})
    assert answer.status_code == HTTPStatus.OK, answer.text
    return answer.json()
