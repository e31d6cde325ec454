"""What graphs put into their state and events, as JSON: never a failure, and fast."""

import base64
import dataclasses
from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from types import MappingProxyType
from typing import Any
from uuid import UUID

from langgraph.store.base import Item
from langgraph.types import Interrupt, Send

from greenroom import wire

Encoder = Callable[[Any], Any]

MAX_DEPTH = 100
"""Containers within containers that the slow path still shows; deeper ones are cut."""

# Factories may define classes per call: without a limit each call would leave its classes here.
MAX_CACHED_TYPES = 4096


def encode_json(value: Any) -> bytes:
    """Encode what a graph produced. Never raises; what JSON cannot say becomes text.

    Keys that are not scalars become their `repr`, a container inside itself is cut off.
    """
    try:
        return wire.dumps(value, encode_object)
    except (TypeError, ValueError, RecursionError):
        return wire.dumps(to_plain(value))


def encode_object(value: Any) -> Any:
    """Turn an object into JSON data, one level deep: the `default` function of `wire.dumps`.

    Pydantic models and langchain messages become their `model_dump()`, dataclasses and named
    tuples objects, sets and deques lists, bytes base64 text, enums their value, exceptions and
    everything unknown their `repr`. UUIDs and times never arrive here: orjson writes them.
    """
    kind = type(value)
    encoder = _encoders.get(kind)
    if encoder is None:
        encoder = _remember(kind, _choose_encoder(kind))
    try:
        return encoder(value)
    except Exception:  # noqa: BLE001 - users' models run their own serialisers
        return _repr(value)


def to_plain(value: Any, depth: int = 0) -> Any:
    """Copy `value` as JSON data with text keys, cutting what lies below MAX_DEPTH."""
    is_scalar = value is None or isinstance(value, str | int | float | bool)
    if is_scalar and not isinstance(value, Enum):
        return value
    if depth >= MAX_DEPTH:
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        return {_key(key): to_plain(item, depth + 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [to_plain(item, depth + 1) for item in value]
    return to_plain(_leaf(value), depth + 1)


def _leaf(value: Any) -> Any:
    """Like `encode_object`, for what orjson may also know by itself, such as times."""
    try:
        return wire.loads(wire.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return encode_object(value)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    try:
        (text,) = wire.loads(wire.dumps({key: None}))
    except (TypeError, ValueError):
        return str(_repr(key))
    return str(text)


def _remember(kind: type, encoder: Encoder) -> Encoder:
    if len(_encoders) >= MAX_CACHED_TYPES:
        _encoders.clear()
        _encoders.update(KNOWN)
    _encoders[kind] = encoder
    return encoder


def _choose_encoder(kind: type) -> Encoder:
    """Decide once per class, the most telling form first."""
    if callable(getattr(kind, "model_dump", None)):
        return _dump_model
    if callable(getattr(kind, "dict", None)) and hasattr(kind, "__fields__"):
        return _dump_model_v1
    if dataclasses.is_dataclass(kind):
        return _dump_dataclass
    if issubclass(kind, tuple) and hasattr(kind, "_asdict"):
        return _dump_namedtuple
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(kind, "tolist"):
        return _dump_numpy
    for base, encoder in KNOWN.items():
        if issubclass(kind, base):
            return encoder
    return _repr


def _dump_model(value: Any) -> Any:
    # Users fill fields by assignment with other types than declared: no reason for a warning.
    return value.model_dump(warnings=False)


def _dump_model_v1(value: Any) -> Any:
    return value.dict()


def _dump_dataclass(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _dump_namedtuple(value: Any) -> Any:
    return value._asdict()


def _dump_numpy(value: Any) -> Any:
    return value.tolist()


def _dump_send(value: Send) -> dict[str, Any]:
    return {"node": value.node, "arg": value.arg}


def _dump_interrupt(value: Interrupt) -> dict[str, Any]:
    return {"value": value.value, "id": value.id, "response_schema": value.response_schema}


def _dump_bytes(value: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(value).decode()


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a repr is users' code too
        return f"<{type(value).__name__}>"


KNOWN: dict[type, Encoder] = {
    Interrupt: _dump_interrupt,
    Send: _dump_send,
    Item: lambda value: value.dict(),
    BaseException: _repr,
    set: list,
    frozenset: list,
    deque: list,
    UserList: list,
    tuple: list,
    list: list,
    bytes: _dump_bytes,
    bytearray: _dump_bytes,
    memoryview: _dump_bytes,
    Enum: lambda value: value.value,
    OrderedDict: dict,
    ChainMap: dict,
    UserDict: dict,
    MappingProxyType: dict,
    Mapping: dict,
    PurePath: str,
    Decimal: str,
    UUID: str,
    IPv4Address: str,
    IPv6Address: str,
}

_encoders: dict[type, Encoder] = dict(KNOWN)
