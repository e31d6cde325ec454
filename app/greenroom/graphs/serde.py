"""How checkpoints are written down: msgpack with a list of allowed classes, encrypted where asked.

Never pickle, whatever langgraph.json says: whoever can write a row could run code.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from greenroom import encryption, wire
from greenroom.config import Project
from greenroom.errors import ConfigError

SUFFIX = "+greenroom"
"""Stands behind the type of an encrypted value, as langgraph has it: `msgpack+greenroom`."""
MOST_DERIVED = 256
"""Factories may define classes per call, and so a list for each."""
Modules = list[tuple[str, ...]] | Literal[True] | None


class Apart:
    """A value that would lie inside a checkpoint's JSON, marked to be written as a blob."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Serializer(JsonPlusSerializer):
    """langgraph's, with the process's keys if it has any."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._derived: dict[frozenset[Any], JsonPlusSerializer] = {}

    def with_msgpack_allowlist(
        self, extra_allowlist: Iterable[tuple[str, ...] | type]
    ) -> JsonPlusSerializer:
        """See the base class. Remembered: langgraph asks twice a run, for the same few lists."""
        extra = frozenset(extra_allowlist)
        derived = self._derived.get(extra)
        if derived is None:
            derived = super().with_msgpack_allowlist(extra)
            if isinstance(derived, Serializer) and derived is not self:
                derived._derived = {}  # noqa: SLF001 (of our own class)
            if len(self._derived) < MOST_DERIVED:
                self._derived[extra] = derived
        return derived

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """See the base class; the type of an encrypted value ends in SUFFIX."""
        kind, data = super().dumps_typed(obj.value if isinstance(obj, Apart) else obj)
        return (kind + SUFFIX, encryption.seal(data)) if encryption.is_on() else (kind, data)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """See the base class.

        Raises:
            WrongKey: no key of this process fits.
        """
        kind, stored = data
        if kind.endswith(SUFFIX):
            return super().loads_typed((kind.removesuffix(SUFFIX), encryption.unseal(stored)))
        return super().loads_typed(data)


def make_serde(project: Project) -> Serializer:
    """Make the serializer of `checkpointer.serde`.

    Raises:
        ConfigError: the block is wrong, or asks for pickle.
    """
    block = serde_block(project.raw)
    options: dict[str, Any] = {"allowed_json_modules": _modules(block, "allowed_json_modules")}
    if "allowed_msgpack_modules" in block:
        options["allowed_msgpack_modules"] = _modules(block, "allowed_msgpack_modules")
    return Serializer(**options)


def serde_block(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """`checkpointer.serde` of langgraph.json.

    Raises:
        ConfigError: it is no object, or asks for pickle.
    """
    checkpointer = raw.get("checkpointer") or {}
    block = checkpointer.get("serde") if isinstance(checkpointer, Mapping) else None
    if block is None:
        return {}
    if not isinstance(block, Mapping):
        raise ConfigError('langgraph.json: "checkpointer.serde" must be an object')
    if block.get("pickle_fallback"):
        raise ConfigError(
            'langgraph.json: "checkpointer.serde.pickle_fallback" is not supported: whoever can '
            "write a row could run code. Use types that msgpack takes, or list their classes"
        )
    return block


def _modules(block: Mapping[str, Any], key: str) -> Modules:
    """Classes as lists of names: `["my_agent", "state", "Note"]`; true allows all."""
    value = block.get(key)
    if value is None or value is True:
        return value
    if not isinstance(value, list) or not all(
        isinstance(each, list) and each and all(isinstance(name, str) for name in each)
        for each in value
    ):
        raise ConfigError(
            f'langgraph.json: "checkpointer.serde.{key}" must be true or a list like '
            '[["my_agent", "state", "Note"]]'
        )
    return [_symbol(each, key) for each in value]


def _symbol(names: list[str], key: str) -> tuple[str, ...]:
    # msgpack knows a class by its module and its name, JSON by every part of the way.
    if key == "allowed_msgpack_modules" and len(names) > 1:
        return ".".join(names[:-1]), names[-1]
    return tuple(names)


def is_inline(value: Any) -> bool:
    """Scalars live inside the checkpoint's JSONB, as langgraph's own saver has it.

    Not text that JSONB cannot hold, nor numbers beyond JSON: both readers take a blob as well.
    """
    if isinstance(value, str):
        return not wire.UNSTORABLE.search(value)
    if isinstance(value, float):
        return value - value == 0
    return value is None or isinstance(value, bool | int)
