"""The cipher behind `greenroom.encryption`: AES-GCM with a key that says which one it is."""

import hashlib
import os
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from greenroom.encryption import MARK, WrongKey

ID_BYTES = 4
NONCE_BYTES = 12
HEAD_BYTES = len(MARK) + ID_BYTES + NONCE_BYTES


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
