"""What a process encrypts, and with which keys: of the settings, or one that owners guard."""

import base64
import hashlib
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

from greenroom import encryption, wire
from greenroom.config import OUR_MEMBERS, Config
from greenroom.errors import AppError, ConfigError, DatabaseUnavailable

OPEN_SECONDS = 60.0
"""How long the process that opens keys may take, its imports included."""
LARGEST_ANSWER_BYTES = 64 * 1024
OUT_OF_QUESTION = OUR_MEMBERS | {
    *("cron_id", "langgraph_api_version", "langgraph_request_id", "langgraph_version"),
    "run_attempt",
}
"""Of metadata: what the server itself writes there. No handler is asked about it."""
MOST_REMEMBERED = 10_000
"""Documents whose answers a process remembers."""

Ask: TypeAlias = Callable[[Mapping[str, Any]], Iterable[str]]
"""Asks the owner's `encrypt.json` which members of a document it encrypts. Raises AppError when
it failed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What `data_keys` found."""

    keys: list[bytes]
    """The first encrypts."""
    has_json_handlers: bool
    """The owner's code says which members of metadata are secret."""


class Choices:
    """Asks about each document once. Safe under threads and greenlets.

    Keeps digests, not documents. What failed is asked again.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: OrderedDict[bytes, frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, document: Mapping[str, Any]) -> frozenset[str]:
        """The names of members that are to be encrypted.

        Raises:
            HandlerFailed: nobody knows.
        """
        asked = {name: each for name, each in document.items() if name not in OUT_OF_QUESTION}
        if not asked:
            return frozenset()
        # As JSON has it: the values of checkpoints may be anything, and names have to be cleaned.
        text = wire.dumps(asked, repr)
        digest = hashlib.sha256(text).digest()
        chosen = self._find(digest)
        if chosen is None:
            try:
                chosen = frozenset(self._ask(wire.loads(text)))
            except AppError as error:
                raise encryption.HandlerFailed(error) from error
            self._keep(digest, chosen)
        return frozenset(name for name in asked if wire.clean(str(name)) in chosen)

    def _find(self, digest: bytes) -> frozenset[str] | None:
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
            return self._known.get(digest)

    def _keep(self, digest: bytes, chosen: frozenset[str]) -> None:
        with self._lock:
            self._known[digest] = chosen
            if len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)


def install_keys(config: Config, load_ask: Callable[[Config], Ask]) -> None:
    """Encrypt and decrypt with the owner's keys from now on, in this process.

    Args:
        load_ask: makes what asks the owner's JSON handlers; called where there are some.
    Raises:
        ConfigError: `encryption.path` cannot be used, or its keys cannot be opened.
        DatabaseUnavailable: the keys lie there.
    """
    of_settings = [config.encryption_key, *config.old_encryption_keys]
    keys = [each.encode() for each in of_settings if each]
    choices = None
    if config.project.raw.get("encryption"):
        opened = open_data_keys()
        keys = [*opened.keys, *keys]
        if opened.has_json_handlers:
            choices = Choices(load_ask(config))
    encryption.install(keys, config.encrypted_members, choices)


def open_data_keys() -> Opened:
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


def read_answer(answer: dict[str, Any]) -> Opened:
    """What `data_keys` said.

    Raises:
        ConfigError: the owner's code cannot be used, or ended the process.
        DatabaseUnavailable: the keys could not be read.
    """
    if "unavailable" in answer:
        raise DatabaseUnavailable(answer["unavailable"])
    if "keys" not in answer:
        raise ConfigError(answer.get("error") or "encryption.path: its code ended the process")
    keys = [base64.b64decode(each) for each in answer["keys"]]
    return Opened(keys, bool(answer["has_json_handlers"]))
