"""Which keys a process encrypts with: those of the settings, or one that the owner's code has."""

import base64
import os
import subprocess
import sys
from contextlib import closing
from typing import Any

from greenroom import encryption, wire
from greenroom.config import Config
from greenroom.errors import ConfigError, DatabaseUnavailable

OPEN_SECONDS = 60.0
"""How long the process that opens keys may take, its imports included."""
LARGEST_ANSWER_BYTES = 64 * 1024


def install_keys(config: Config) -> None:
    """Encrypt and decrypt with the owner's keys from now on, in this process.

    Raises:
        ConfigError: `encryption.path` cannot be used, or its keys cannot be opened.
        DatabaseUnavailable: the keys lie there.
    """
    of_settings = [config.encryption_key, *config.old_encryption_keys]
    keys = [each.encode() for each in of_settings if each]
    if config.project.raw.get("encryption"):
        keys = [*open_data_keys(), *keys]
    encryption.install(keys, config.encrypted_members)


def open_data_keys() -> list[bytes]:
    """Have the keys of data opened, in a process of its own: that is the owner's code.

    Raises:
        ConfigError: it cannot be used.
        DatabaseUnavailable: the keys lie there.
    """
    reading, writing = os.pipe()
    with closing(os.fdopen(reading, "rb")) as answers:
        command = [sys.executable, "-m", "greenroom.graphs.data_keys", str(writing)]
        try:
            child = subprocess.Popen(  # noqa: S603 (our own module)
                command, pass_fds=[writing], stdin=subprocess.DEVNULL
            )
        finally:
            os.close(writing)
        try:
            child.wait(OPEN_SECONDS)
        except subprocess.TimeoutExpired as error:
            child.kill()
            child.wait()
            raise ConfigError(
                f"encryption.path: no key was opened within {OPEN_SECONDS:g} s"
            ) from error
        answer = answers.read(LARGEST_ANSWER_BYTES)
    return read_answer(wire.loads(answer) if answer else {})


def read_answer(answer: dict[str, Any]) -> list[bytes]:
    """What `data_keys` said.

    Raises:
        ConfigError: the owner's code cannot be used, or ended the process.
        DatabaseUnavailable: the keys could not be read.
    """
    if "unavailable" in answer:
        raise DatabaseUnavailable(answer["unavailable"])
    if "keys" not in answer:
        raise ConfigError(answer.get("error") or "encryption.path: its code ended the process")
    return [base64.b64decode(each) for each in answer["keys"]]
