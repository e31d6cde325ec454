"""Columns for `unnest` in the binary form of Postgres's arrays (its arrayfuncs.c, array_recv).

psycopg looks at each element to find its type; here the type is known, which costs a fifth. Its
statements must say it, too: `%(names)b::text[]`.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

HEAD: Final = struct.Struct(">iiIii")
"""Dimensions, whether there are nulls, type of the elements, their number, the first's index."""
EMPTY: Final = struct.Struct(">iiI")
LENGTH: Final = struct.Struct(">i")
NULL: Final = LENGTH.pack(-1)
SMALL: Final = tuple(LENGTH.pack(length) for length in range(256))
"""What almost every length is written as."""
INT4: Final = struct.Struct(">i")
INT8: Final = struct.Struct(">q")
TRUE, FALSE = b"\x01", b"\x00"


class Array(bytes):
    """An array as it is sent."""

    __slots__ = ()


class ArrayDumper(Dumper):
    """Sends an Array as it is; the statement's cast tells its type."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Any) -> Buffer:
        """See the base class."""
        return bytes(obj)


psycopg.adapters.register_dumper(Array, ArrayDumper)


def texts(values: Iterable[str | int | float | None]) -> Array:
    """`text[]`; versions of channels may be numbers."""
    return _pack(25, [None if value is None else str(value).encode() for value in values])


def uuids(values: Iterable[UUID]) -> Array:
    """`uuid[]`."""
    return _pack(2950, [value.bytes for value in values])


def blobs(values: Iterable[bytes | None]) -> Array:
    """`bytea[]`."""
    return _pack(17, list(values))


def integers(values: Iterable[int]) -> Array:
    """`integer[]`."""
    return _pack(23, [INT4.pack(value) for value in values])


def bigints(values: Iterable[int]) -> Array:
    """`bigint[]`."""
    return _pack(20, [INT8.pack(value) for value in values])


def booleans(values: Iterable[bool]) -> Array:
    """`boolean[]`."""
    return _pack(16, [TRUE if value else FALSE for value in values])


Pack = Callable[[Iterable[Any]], Array]


def _pack(oid: int, items: Sequence[bytes | None]) -> Array:
    if not items:
        return Array(EMPTY.pack(0, 0, oid))
    parts = [HEAD.pack(1, None in items, oid, len(items), 1)]
    for item in items:
        if item is None:
            parts.append(NULL)
            continue
        length = len(item)
        parts.append(SMALL[length] if length < len(SMALL) else LENGTH.pack(length))
        parts.append(item)
    return Array(b"".join(parts))
