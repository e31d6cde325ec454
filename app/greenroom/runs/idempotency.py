"""The Idempotency-Key header: a request that is sent again gets the run of the first time.

Draft: draft-ietf-httpapi-idempotency-key-header-07. The same key with another request is a 409.
"""

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert, select, text

from greenroom import wire
from greenroom.database.tables import idempotency_key
from greenroom.errors import InvalidRequest, KeyReused

LONGEST_KEY = 255
LIFE = text("now() + interval '24 hours'")
LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 7203170905))")


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key, and the fingerprint of the request that came with it."""

    text: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Repeat:
    """What the key stands for: the run of the first request, and the answer that it got."""

    thread_id: UUID
    run_id: UUID
    response: dict[str, Any]


class RepeatedRequestError(Exception):
    """The run exists already. Carries it to the view, which joins it instead."""

    def __init__(self, repeat: Repeat) -> None:
        super().__init__(str(repeat.run_id))
        self.repeat = repeat


def read_key(header: str | None, path: str, body: bytes, identity: str = "") -> Key | None:
    """Read the header; None without one.

    Args:
        identity: the caller's, whose keys are nobody else's.
    Raises:
        InvalidRequest: the key is too long.
    """
    if not header:
        return None
    if len(header) > LONGEST_KEY:
        raise InvalidRequest(f"Idempotency-Key must have at most {LONGEST_KEY} characters")
    fingerprint = hashlib.sha256(path.encode() + b"\0" + body).digest()
    if identity:
        owner = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
        header = f"{owner} {header}"
    return Key(wire.clean(header), fingerprint)


def lock_key(connection: Connection, key: Key) -> None:
    """Make requests with one key come one after another, until the end of the transaction."""
    connection.execute(LOCK, {"key": key.text})


def find_repeat(connection: Connection, key: Key) -> Repeat | None:
    """What the key stands for; None when it is new.

    Raises:
        KeyReused: it came with another request.
    """
    query = select(
        idempotency_key.c.fingerprint, idempotency_key.c.run_id, idempotency_key.c.response
    )
    row = connection.execute(query.where(idempotency_key.c.key == key.text)).one_or_none()
    if row is None:
        return None
    if row.fingerprint != key.fingerprint:
        raise KeyReused
    return Repeat(UUID(row.response["thread_id"]), row.run_id, row.response)


def write_key(connection: Connection, key: Key, run: dict[str, Any], *, is_temporary: bool) -> None:
    """Write a new key down in the transaction that lets its run in."""
    connection.execute(
        insert(idempotency_key).values(
            key=key.text,
            fingerprint=key.fingerprint,
            thread_id=None if is_temporary else run["thread_id"],
            run_id=run["run_id"],
            response=run,
            expires_at=LIFE,
        )
    )
