"""The owner's `Encryption` object (langgraph-json.md, 6), and what its JSON handlers are asked.

They say which members of metadata are secret: those whose values `encrypt.json` changes. What it
makes of them is thrown away; we encrypt them with the key of data (`greenroom.encryption`), so that
nothing that is read needs a handler.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from langgraph_sdk import DecryptResult, Encryption, EncryptionContext

from greenroom import wire
from greenroom.config import Config
from greenroom.errors import ConfigError, GraphFault
from greenroom.graphs.apart import call_apart
from greenroom.graphs.client import GraphTimeout
from greenroom.graphs.registry import load_attribute
from greenroom.keyring import Ask
from greenroom.logs import get_logger

log = get_logger(__name__)

Json = dict[str, Any]
MODELS = ("assistant", "thread", "run", "cron", "checkpoint")
"""Whose metadata are searched. They are copied from one to the other: what is secret in one of
them is secret in all."""
FIELD = "metadata"
PROBE = {"greenroom": "probe"}


class JsonHandlers:
    """The owner's JSON handlers. `seconds` is how long one question may take."""

    def __init__(
        self,
        encrypt: Callable[[EncryptionContext, Json], Awaitable[Any]],
        decrypt: Callable[[EncryptionContext, Json], Awaitable[Any]],
        seconds: float,
    ) -> None:
        self._encrypt = encrypt
        self._decrypt = decrypt
        self._seconds = seconds

    def ask(self, document: Mapping[str, Any]) -> set[str]:
        """`choose`, for a thread that may block."""
        return call_apart(lambda: self.choose(document), self._seconds, "encrypt.json")

    async def choose(self, document: Mapping[str, Any]) -> set[str]:
        """The members of metadata that `encrypt.json` encrypts, whoever's metadata they are.

        Raises:
            GraphFault: it raised, or did not keep the names.
            GraphTimeout: it took too long.
        """
        questions = [self._call("encrypt.json", self._encrypt, document, each) for each in MODELS]
        with logged():
            answers = await asyncio.gather(*questions)
            return {name for answer in answers for name in changed(document, answer)}

    async def check(self) -> None:
        """Let both handlers work on a document of ours.

        Raises:
            GraphFault: as `choose`, or it does not come back as it was.
            GraphTimeout: as `choose`.
        """
        with logged():
            answer = await self._call("encrypt.json", self._encrypt, PROBE)
            changed(PROBE, answer)
            opened = await self._call("decrypt.json", self._decrypt, answer)
            if isinstance(opened, DecryptResult):
                opened = opened.plaintext
            if opened != PROBE:
                raise GraphFault("decrypt.json does not give back what was encrypted")

    async def _call(
        self,
        name: str,
        handler: Callable[[EncryptionContext, Json], Awaitable[Any]],
        document: Mapping[str, Any],
        model: str = MODELS[0],
    ) -> Any:
        context = EncryptionContext(model=model, field=FIELD)
        try:
            async with asyncio.timeout(self._seconds):
                # A copy: it may be changed in place.
                return await handler(context, copy.deepcopy(dict(document)))
        except TimeoutError as error:
            raise GraphTimeout(f"{name} takes longer than {self._seconds:g} s") from error
        except (Exception, SystemExit) as error:  # the owner's code may raise anything
            raise GraphFault(f"{name} raised {type(error).__name__}") from error


@contextmanager
def logged() -> Iterator[None]:
    """Tell of a fault once, with what the owner's code raised, however many questions met it."""
    try:
        yield
    except GraphFault as error:
        log.exception("encryption handler failed", error=str(error))
        raise


def changed(document: Mapping[str, Any], answer: Any) -> set[str]:
    """The names whose values an encrypted document has not kept.

    Raises:
        GraphFault: it has other names.
    """
    if not isinstance(answer, dict) or answer.keys() != document.keys():
        raise GraphFault("encrypt.json must give back an object with the same names")
    return {
        name
        for name, value in document.items()
        if wire.dumps(answer[name], repr) != wire.dumps(value)
    }


def load_encryption(config: Config) -> Encryption:
    """What `encryption.path` names.

    Raises:
        ConfigError: it cannot be used.
    """
    block = config.project.raw["encryption"]
    path = block.get("path") if isinstance(block, dict) else None
    if not isinstance(path, str) or ":" not in path:
        raise ConfigError('langgraph.json: "encryption" must be {"path": "./file.py:variable"}')
    found = load_attribute(config.project, path, "encryption.path")
    if not isinstance(found, Encryption):
        raise ConfigError(
            f"encryption.path: {path} is a {type(found).__name__}, not a langgraph_sdk.Encryption"
        )
    return found


def find_json_handlers(found: Encryption, config: Config) -> JsonHandlers | None:
    """The JSON handlers of it; None where it has none.

    Raises:
        ConfigError: it has one of the two alone.
    """
    encrypt, decrypt = found.get_json_encryptor(), found.get_json_decryptor()
    if encrypt is None and decrypt is None:
        return None
    if encrypt is None or decrypt is None:
        raise ConfigError("encryption.path: it needs both encrypt.json and decrypt.json")
    return JsonHandlers(encrypt, decrypt, config.auth_timeout_seconds)


def load_ask(config: Config) -> Ask:
    """What tells which members of metadata are secret, in a process that has the owner's code.

    Raises:
        ConfigError: there are no JSON handlers that can be used.
    """
    handlers = find_json_handlers(load_encryption(config), config)
    if handlers is None:
        raise ConfigError("encryption.path: the JSON handlers have gone since the keys were opened")
    return handlers.ask
