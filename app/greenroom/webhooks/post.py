"""One attempt to deliver: check again, connect to the very address that was checked, ask.

Written on asyncio's streams, because every library that takes a URL looks its host up once more,
and that second answer nobody has checked. Here the address is given to the socket and the host to
TLS, which asks for it (SNI) and verifies the certificate against it, so a pinned connection is no
less authentic than any other. It also gives us one deadline for everything, the resolver included.
"""

import asyncio
import hashlib
import hmac
import io
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from urllib.parse import urljoin
from uuid import UUID

import greenroom
from greenroom import wire
from greenroom.webhooks import policy
from greenroom.webhooks.policy import Resolver, Target
from greenroom.webhooks.settings import Rules, Settings

TOTAL_SECONDS = 10.0
"""For a whole attempt."""
CONNECT_SECONDS = 4.0
"""For one address of several."""
FAREWELL_SECONDS = 1.0
"""How long a receiver that has answered may go on talking before it sees a broken pipe."""
HEAD_BYTES = 16 * 1024
"""The longest head of an answer. Of its body no more than this is read, and nothing is kept."""
MAX_REDIRECTS = 3
# 303 is not among them: it says that the request has been dealt with and where the result lies.
REDIRECTS = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\r\n")
OWN = Rules(disable_loopback=False)
"""For paths of our own: where they lead is in our settings, not in the client's hands."""


class NotDelivered(Exception):
    """An attempt came to nothing; the next may do better."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent in one attempt."""

    delivery_id: UUID
    url: str
    """Absolute, or a path of our own."""
    body: bytes
    """JSON of an object, without `webhook_sent_at`."""
    sent_at: datetime


async def post(
    settings: Settings,
    letter: Letter,
    resolve: Resolver = policy.resolve,
    total_seconds: float = TOTAL_SECONDS,
) -> int:
    """Deliver, and follow up to three redirects, each checked like the first URL.

    The POST is repeated at the new place. The owner's headers, which may hold a secret, do not go
    to another host, nor to one that is asked without TLS after one that was asked with it.

    Args:
        total_seconds: for everything, the resolver and every redirect included.
    Returns:
        The status of the last answer, whatever it is.
    Raises:
        WebhookRefused: the URL, or one that it redirects to, breaks a rule.
        NotDelivered: no answer in time, or none that is HTTP.
    """
    url, rules = letter.url, settings.rules
    if policy.is_own_path(url):
        policy.check_own_path(rules, url)
        url, rules = settings.own_url + url, OWN
    body = letter.body[:-1] + b',"webhook_sent_at":' + wire.dumps(letter.sent_at) + b"}"
    headers = {**own_headers(settings.secret, letter, body), **settings.headers}
    try:
        async with asyncio.timeout(total_seconds):
            target = await asyncio.to_thread(policy.check, rules, url, resolve)
            for _ in range(MAX_REDIRECTS):
                status, location = await _ask(target, headers, body)
                if status not in REDIRECTS or not location:
                    return status
                # Whoever answered chose this address: our own routes are not theirs to choose.
                there = urljoin(target.url, location)
                before, target = (
                    target,
                    await asyncio.to_thread(policy.check, settings.rules, there, resolve),
                )
                if not _is_trusted(before, target):
                    headers = own_headers(settings.secret, letter, body)
            return (await _ask(target, headers, body))[0]
    except TimeoutError as error:
        raise NotDelivered(f"no answer within {total_seconds:g} s") from error


def own_headers(secret: str, letter: Letter, body: bytes) -> dict[str, str]:
    """The headers that every delivery has."""
    headers = {
        "content-type": "application/json",
        "user-agent": f"greenroom/{greenroom.__version__}",
        "greenroom-delivery": str(letter.delivery_id),
    }
    if secret:
        headers["greenroom-signature"] = sign(secret, int(letter.sent_at.timestamp()), body)
    return headers


def sign(secret: str, seconds: int, body: bytes) -> str:
    """The signature of a body at a time: `t=<unix>,v1=<hex HMAC-SHA256 of "<unix>.<body>">`.

    The time is part of it, so that a receiver may refuse what somebody recorded and sends again.
    """
    signed = b"%d.%b" % (seconds, body)
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def _is_trusted(before: Target, after: Target) -> bool:
    """Whether the owner's headers may follow a redirect."""
    same_place = after.port == before.port or (before.scheme, after.scheme) == ("http", "https")
    is_downgrade = before.scheme == "https" and after.scheme != "https"
    return after.host == before.host and same_place and not is_downgrade


async def _ask(target: Target, headers: Mapping[str, str], body: bytes) -> tuple[int, str | None]:
    """Send one request: the status of its answer, and where that leads."""
    try:
        reader, writer = await _connect(target)
        try:
            writer.writelines([_head(target, headers, len(body)), body])
            await writer.drain()
            answer = await _read_answer(reader)
            with suppress(OSError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await reader.read(HEAD_BYTES)
            return answer
        finally:
            writer.close()
    except ssl.SSLCertVerificationError as error:
        raise NotDelivered(f"the certificate does not hold: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise NotDelivered(f"TLS failed: {error.reason or 'unknown reason'}") from error
    except TimeoutError:
        raise
    except OSError as error:
        # asyncio's text holds the address: whoever reads this need not learn our network.
        text = os.strerror(error.errno) if error.errno else type(error).__name__
        raise NotDelivered(text) from error
    except asyncio.IncompleteReadError as error:
        raise NotDelivered("the connection was closed without an answer") from error
    except (asyncio.LimitOverrunError, HTTPException, ValueError) as error:
        raise NotDelivered("the answer was not HTTP/1.1") from error


async def _connect(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to one of the checked addresses, in the resolver's order."""
    *others, last = target.addresses
    for address in others:
        with suppress(OSError):
            async with asyncio.timeout(CONNECT_SECONDS):
                return await _open(target, address)
    return await _open(target, last)


async def _open(target: Target, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if target.scheme == "http":
        return await asyncio.open_connection(address, target.port, limit=HEAD_BYTES)
    return await asyncio.open_connection(
        address, target.port, limit=HEAD_BYTES, ssl=_tls(), server_hostname=target.host
    )


@cache
def _tls() -> ssl.SSLContext:
    """The system's authorities; reading them takes longer than a request."""
    return ssl.create_default_context()


def _head(target: Target, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """The request's head; nothing in it can hold a line break (settings, policy)."""
    lines = {
        "host": target.authority,
        **headers,
        "content-length": str(body_bytes),
        "connection": "close",
    }
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {target.path} HTTP/1.1\r\n{fields}\r\n".encode("latin-1")


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, str | None]:
    """Read up to the end of the head; interim answers (1xx) are passed over.

    Raises:
        ValueError, HTTPException, asyncio.LimitOverrunError: it is not HTTP.
    """
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        found = STATUS_LINE.match(head)
        if found is None:
            raise ValueError("no status line")
        status = int(found[1])
        if status >= HTTPStatus.OK:
            return status, parse_headers(io.BytesIO(head[found.end() :])).get("location")
