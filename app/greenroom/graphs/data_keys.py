"""The owner's encryption handlers (langgraph-json.md, 6), which guard the keys of data.

Data are encrypted by ourselves, with a key that lies in `data_key` as the owner's `encrypt.blob`
has given it: envelope encryption (NIST SP 800-57 part 1, 5.3.5: key-encrypting keys). So its blob
handlers are called when a process starts, and neither a slow nor a failing one can hold up runs.

`python -m greenroom.graphs.data_keys FD` writes to FD what `keyring.read_answer` reads.
"""

import asyncio
import base64
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from langgraph_sdk import DecryptResult, Encryption, EncryptionContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from greenroom import wire
from greenroom.config import Config, export_project_environment, load_config
from greenroom.database.deployment import find_deployment
from greenroom.database.engine import Database
from greenroom.errors import AppError, ConfigError, DatabaseUnavailable
from greenroom.graphs.encryption_handlers import find_json_handlers, load_encryption
from greenroom.logs import configure_logs, get_logger

log = get_logger(__name__)

KEY_BYTES = 32
MODEL, FIELD = "data_key", "key"
"""What handlers read in their context."""
LOCK = text("SELECT pg_advisory_xact_lock(hashtext('greenroom data_key'))")
FIND = text("SELECT key_id, wrapped FROM data_key ORDER BY created_at DESC, key_id")
ADD = text("INSERT INTO data_key (wrapped) VALUES (:wrapped)")
REPLACE = text("UPDATE data_key SET wrapped = :wrapped WHERE key_id = :key_id")


@dataclass(frozen=True, slots=True)
class KeyGuard:
    """The owner's blob handlers. `seconds` is how long one may take."""

    encrypt: Callable[[EncryptionContext, bytes], Awaitable[Any]]
    decrypt: Callable[[EncryptionContext, bytes], Awaitable[Any]]
    seconds: float

    def make(self) -> tuple[bytes, bytes]:
        """A new key, and what is to be stored of it.

        Raises:
            ConfigError: a handler failed, or what it makes would be of no use.
        """
        key = os.urandom(KEY_BYTES)
        wrapped = self._call("encrypt.blob", self.encrypt, key)
        if not isinstance(wrapped, bytes) or key in wrapped:
            raise ConfigError("encryption.path: encrypt.blob does not encrypt")
        if self.open(wrapped)[0] != key:
            raise ConfigError("encryption.path: decrypt.blob does not give back what was encrypted")
        return key, wrapped

    def open(self, wrapped: bytes) -> tuple[bytes, bytes | None]:
        """A stored key, and what is to be stored instead; None: nothing.

        Raises:
            ConfigError: the handler failed, or gave something else.
        """
        answer = self._call("decrypt.blob", self.decrypt, wrapped)
        replacement = None
        if isinstance(answer, DecryptResult):
            answer, replacement = answer.plaintext, answer.replacement
        if not isinstance(answer, bytes) or len(answer) != KEY_BYTES:
            raise ConfigError("encryption.path: decrypt.blob gave no key of ours")
        return answer, replacement

    def _call(
        self, name: str, handler: Callable[[EncryptionContext, bytes], Awaitable[Any]], data: bytes
    ) -> Any:
        async def call() -> Any:
            async with asyncio.timeout(self.seconds):
                return await handler(EncryptionContext(model=MODEL, field=FIELD), data)

        try:
            return asyncio.run(call())
        except TimeoutError as error:
            raise ConfigError(
                f"encryption.path: {name} takes longer than {self.seconds:g} s"
            ) from error
        except (Exception, SystemExit) as error:  # the owner's code may raise anything
            log.exception("encryption handler raised", handler=name)
            raise ConfigError(f"encryption.path: {name} raised {type(error).__name__}") from error


def load_guard(found: Encryption, config: Config) -> KeyGuard:
    """The owner's blob handlers.

    Raises:
        ConfigError: they cannot be used, or there is a handler that would not be called.
    """
    if found._context_handler is not None:
        raise ConfigError(
            "encryption.path: @encryption.context is not supported: all data have one key"
        )
    if found._blob_encryptor is None or found._blob_decryptor is None:
        raise ConfigError("encryption.path: it needs both encrypt.blob and decrypt.blob")
    return KeyGuard(found._blob_encryptor, found._blob_decryptor, config.auth_timeout_seconds)


def has_json_handlers(found: Encryption, config: Config) -> bool:
    """Whether metadata are the owner's affair, too; the handlers have been tried then.

    Raises:
        ConfigError: they cannot be used.
    """
    handlers = find_json_handlers(found, config)
    if handlers is None:
        return False
    try:
        asyncio.run(handlers.check())
    except AppError as error:
        raise ConfigError(f"encryption.path: {error}") from error
    return True


def open_keys(connection: Connection, guard: KeyGuard) -> list[bytes]:
    """Every key of data, the one to encrypt with first; made if there is none.

    Wants a transaction.

    Raises:
        ConfigError: as `KeyGuard`.
    """
    connection.execute(LOCK)
    rows = connection.execute(FIND).all()
    if not rows:
        key, wrapped = guard.make()
        connection.execute(ADD, {"wrapped": wrapped})
        return [key]
    keys = []
    for row in rows:
        key, replacement = guard.open(bytes(row.wrapped))
        if replacement is not None:
            is_sealed = isinstance(replacement, bytes) and key not in replacement
            if not is_sealed or guard.open(replacement)[0] != key:
                raise ConfigError("encryption.path: decrypt.blob's replacement is of no use")
            connection.execute(REPLACE, {"key_id": row.key_id, "wrapped": replacement})
            log.info("key of data encrypted anew", key_id=str(row.key_id))
        keys.append(key)
    return keys


def answer() -> dict[str, Any]:
    """What the process that asked is to read."""
    try:
        config = load_config()
        configure_logs(config.log_level, as_json=config.log_json)
        export_project_environment(config.project)
        found = load_encryption(config)
        guard = load_guard(found, config)
        asks = has_json_handlers(found, config)
        database = Database(config, pool_size=1, application_name="greenroom keys")
        try:
            # The sentence for a database that was never migrated.
            find_deployment(database)
            with database.transaction() as connection:
                keys = open_keys(connection, guard)
        finally:
            database.close()
    except ConfigError as error:
        return {"error": str(error)}
    except DatabaseUnavailable as error:
        return {"unavailable": str(error)}
    except ProgrammingError as error:
        return {"error": f"the keys of data cannot be read, run greenroom migrate: {error.orig}"}
    return {
        "keys": [base64.b64encode(key).decode() for key in keys],
        "has_json_handlers": asks,
    }


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "wb") as out:
        out.write(wire.dumps(answer()))
