"""Encryption at rest: AES-GCM over whole payloads, with keys that only this server has.

A process installs its keys once, at its start; without a key `seal` gives its input back. Sealed
bytes begin with MARK, which neither JSON nor an event begins with, so that rows from before the key
stay readable.
"""

import hashlib
import os
from collections.abc import Iterable
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from greenroom.errors import AppError

MARK = b"\x00greenroom\x01"
ID_BYTES = 4
NONCE_BYTES = 12
HEAD_BYTES = len(MARK) + ID_BYTES + NONCE_BYTES

Readable: TypeAlias = bytes | memoryview


class WrongKey(AppError):
    """What is stored was encrypted with a key that this process does not have."""

    def __init__(self) -> None:
        super().__init__(
            "Stored data was encrypted with another key: set LANGGRAPH_AES_KEY to that key, or add "
            "it to GREENROOM_AES_OLD_KEYS"
        )


class Keys:
    """The key that encrypts, and those that only decrypt.

    A nonce is drawn for every payload; at 2**32 payloads a key should be changed (NIST SP 800-38D).
    """

    def __init__(self, key: bytes, old_keys: Iterable[bytes] = ()) -> None:
        self._id = key_id(key)
        self._key = AESGCM(key)
        self._all = {key_id(each): AESGCM(each) for each in (*old_keys, key)}

    def seal(self, data: bytes) -> bytes:
        """Encrypt."""
        nonce = os.urandom(NONCE_BYTES)
        head = MARK + self._id + nonce
        # The head is authenticated, too: nothing of it can be exchanged.
        return head + self._key.encrypt(nonce, data, head)

    def unseal(self, sealed: bytes) -> bytes:
        """Decrypt what `seal` gave.

        Raises:
            WrongKey: it was sealed with another key, or has been changed since.
        """
        key = self._all.get(sealed[len(MARK) : len(MARK) + ID_BYTES])
        if key is None:
            raise WrongKey
        head = sealed[:HEAD_BYTES]
        try:
            return key.decrypt(head[-NONCE_BYTES:], sealed[HEAD_BYTES:], head)
        except InvalidTag as error:
            raise WrongKey from error


def key_id(key: bytes) -> bytes:
    """What names a key beside what it has sealed; tells nothing about it."""
    return hashlib.sha256(b"greenroom key " + key).digest()[:ID_BYTES]


_keys: Keys | None = None


def install(key: str, old_keys: Iterable[str] = ()) -> None:
    """Encrypt and decrypt with these keys from now on, in this process; an empty one does neither.

    Args:
        old_keys: of data that was written before the key was changed.
    """
    global _keys  # noqa: PLW0603 (column types have nothing else to ask)
    olds = [each.encode() for each in old_keys]
    _keys = Keys(key.encode(), olds) if key else None


def is_on() -> bool:
    """Whether payloads are encrypted."""
    return _keys is not None


def seal(data: bytes) -> bytes:
    """What is to be stored of a payload."""
    return data if _keys is None else _keys.seal(data)


def seal_maybe(data: bytes | None) -> bytes | None:
    """The same of one that may be None."""
    return None if data is None else seal(data)


def unseal(stored: Readable) -> bytes:
    """A payload as it was before it was stored.

    Raises:
        WrongKey: it is encrypted, and no key of this process fits.
    """
    data = bytes(stored)
    if not data.startswith(MARK):
        return data
    if _keys is None:
        raise WrongKey
    return _keys.unseal(data)


def unseal_maybe(stored: Readable | None) -> bytes | None:
    """The same of one that may be None."""
    return None if stored is None else unseal(stored)
