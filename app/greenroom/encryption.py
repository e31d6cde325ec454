"""Encryption at rest: AES-GCM over whole payloads, with keys that only this server has.

Of JSON that Postgres searches, the values under chosen names are encrypted one by one.

A process installs its keys once, at its start; without a key `seal` gives its input back. Sealed
bytes begin with MARK, which neither JSON nor an event begins with, so that rows from before the key
stay readable.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy.exc import DontWrapMixin

from greenroom import wire
from greenroom.errors import AppError, InvalidRequest

if TYPE_CHECKING:
    from greenroom.cipher import Keys

MARK = b"\x00greenroom\x01"
TEXT_MARK = "greenroom:sealed:"
"""What sealed bytes begin with where they must be text, because they lie in JSONB."""

Readable: TypeAlias = bytes | memoryview
Choose: TypeAlias = Callable[[Mapping[str, Any]], frozenset[str]]
"""Tells which members of metadata are to be encrypted, whatever they are called."""


class WrongKey(AppError):
    """What is stored was encrypted with a key that this process does not have."""

    def __init__(self) -> None:
        super().__init__(
            "Stored data was encrypted with another key: set LANGGRAPH_AES_KEY to that key, or add "
            "it to GREENROOM_AES_OLD_KEYS"
        )


class NotStorable(InvalidRequest, DontWrapMixin):
    """A text that would be taken for an encrypted one. SQLAlchemy hands it on as it is."""

    def __init__(self) -> None:
        super().__init__(f"a text may not begin with {TEXT_MARK!r}: this marks what is encrypted")


class NotSearchable(InvalidRequest):
    """What is searched for lies encrypted."""

    def __init__(self, name: str, by: str) -> None:
        super().__init__(f"metadata.{name} is encrypted ({by}) and cannot be searched")


class HandlerFailed(AppError, DontWrapMixin):
    """The owner's `encrypt.json` gave no answer. SQLAlchemy hands it on as it is."""

    def __init__(self, error: AppError) -> None:
        super().__init__(str(error))
        self.status = error.status


_keys: "Keys | None" = None
_names: frozenset[str] = frozenset()
_choose: Choose | None = None


def install(keys: Sequence[bytes], names: Iterable[str] = (), choose: Choose | None = None) -> None:
    """Encrypt and decrypt with these keys from now on, in this process; without any, neither.

    Args:
        keys: the first encrypts; the others are of data that was written before.
        names: of members whose values are encrypted where the JSON around them is searched.
        choose: tells of more; None: there are no more. Raises HandlerFailed.
    """
    global _keys, _names, _choose  # noqa: PLW0603 (column types have nothing else to ask)
    _names = frozenset(names)
    _choose = choose
    _keys = make_keys(keys) if keys else None


def make_keys(keys: Sequence[bytes]) -> "Keys":
    """Load what encrypts: seven megabytes that a process without a key does not need."""
    from greenroom.cipher import Keys  # noqa: PLC0415 (as said)

    return Keys(keys[0], keys[1:])


def is_on() -> bool:
    """Whether payloads are encrypted."""
    return _keys is not None


def has_handler() -> bool:
    """Whether `choose` may have to wait for the owner's code."""
    return _choose is not None


def choose(document: Mapping[str, Any]) -> frozenset[str]:
    """The members of metadata that are encrypted because the owner's handler says so.

    The answer is remembered: who is about to lock something asks before.

    Raises:
        HandlerFailed: the handler gave no answer.
    """
    return _choose(document) if _choose is not None and document else frozenset()


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


def seal_text(data: bytes) -> str:
    """What is to be stored of a payload that lies in JSONB. Only where there is a key.

    Raises:
        WrongKey: there is none.
    """
    if _keys is None:
        raise WrongKey
    return TEXT_MARK + base64.b64encode(_keys.seal(data)).decode()


def unseal_text(stored: str) -> bytes:
    """Decrypt what `seal_text` gave.

    Raises:
        WrongKey: no key of this process fits, or it has been changed since.
    """
    try:
        data = base64.b64decode(stored.removeprefix(TEXT_MARK), validate=True)
    except (binascii.Error, ValueError) as error:
        raise WrongKey from error
    if _keys is None or not (stored.startswith(TEXT_MARK) and data.startswith(MARK)):
        raise WrongKey
    return _keys.unseal(data)


def dumps_members(value: Any, dumps: Callable[[Any], bytes] = wire.dumps) -> bytes:
    """JSON as it is stored where Postgres searches it: the values under chosen names encrypted.

    Raises: as `seal_members`.
    """
    text = dumps(value)
    if not _names and _choose is None and TEXT_MARK.encode() not in text:
        return text
    return dumps(seal_members(value))


def loads_members(text: str) -> Any:
    """Decode what `dumps_members` gave, or what lay there before.

    Raises:
        WrongKey: a value is encrypted, and no key of this process fits.
    """
    value = wire.loads(text)
    return unseal_members(value) if TEXT_MARK in text else value


def seal_members(value: Any) -> Any:
    """A copy of JSON data with the values under chosen names encrypted.

    Those that the setting names at any depth, those that the handler chooses at the top.

    Raises:
        NotStorable: a text looks like an encrypted one.
        HandlerFailed: as `choose`.
    """
    return _seal_members(value, choose(value) if isinstance(value, dict) else frozenset())


def _seal_members(value: Any, chosen: frozenset[str] = frozenset()) -> Any:
    match value:
        case dict():
            hidden = _names | chosen
            return {
                name: seal_text(wire.dumps(each, repr)) if name in hidden else _seal_members(each)
                for name, each in value.items()
            }
        case list() | tuple():
            return [_seal_members(each) for each in value]
        case str() if value.startswith(TEXT_MARK):
            raise NotStorable
    return value


def unseal_members(value: Any) -> Any:
    """The opposite of `seal_members`, whatever the chosen names were then.

    Raises:
        WrongKey: a value is encrypted, and no key of this process fits.
    """
    match value:
        case dict():
            return {name: unseal_members(each) for name, each in value.items()}
        case list():
            return [unseal_members(each) for each in value]
        case str() if value.startswith(TEXT_MARK):
            return wire.loads(unseal_text(value))
    return value


def searchable(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a search wants stored JSON to contain, as it came.

    Raises:
        NotSearchable: a value that it names is encrypted.
        HandlerFailed: as `choose`.
    """
    level: list[Any] = [wanted] if _names else []
    while level:
        for each in level:
            if isinstance(each, dict) and (hidden := _names & each.keys()):
                raise NotSearchable(min(hidden), "LANGGRAPH_AES_JSON_KEYS")
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
    if chosen := choose(wanted):
        raise NotSearchable(min(chosen), "encryption.path")
    return wanted
