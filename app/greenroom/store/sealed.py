"""Items whose values are encrypted: a string in a column that otherwise holds objects.

What a filter looks into has to be decrypted first, here and not in Postgres: it reads the items of
a namespace page by page, up to MAX_SCANNED.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from greenroom import encryption, wire
from greenroom.errors import BadRequest
from greenroom.store.filters import Condition
from greenroom.store.matching import matches

PAGE = 500
"""Items that are read and decrypted at once."""
MAX_SCANNED = 100_000
"""Items that one search decrypts."""
FETCH = f"FETCH FORWARD {PAGE} FROM scan"


def declare(statement: str) -> str:
    """Open the cursor that FETCH reads; it ends with its transaction."""
    return f"DECLARE scan NO SCROLL CURSOR FOR {statement}"


def to_store(value: bytes) -> str:
    """JSON of an object as it is stored: JSON, too."""
    if not encryption.is_on():
        return value.decode()
    return wire.dumps(encryption.seal_text(value)).decode()


def from_stored(stored: str) -> bytes:
    """JSON of an object from JSON as it is stored.

    Raises:
        WrongKey: it is encrypted, and no key of this process fits.
    """
    return unseal(wire.loads(stored)) if stored.startswith('"') else stored.encode()


def unseal(value: Any) -> bytes:
    """JSON of an object from what JSONB holds.

    Raises:
        WrongKey: as `from_stored`.
    """
    return encryption.unseal_text(value) if isinstance(value, str) else wire.dumps(value)


class Scan:
    """One search: takes rows in their order, keeps the page that was asked for."""

    def __init__(self, conditions: Sequence[Condition], *, limit: int, offset: int) -> None:
        self._conditions = conditions
        self._skipped, self._offset, self._limit = 0, offset, limit
        self._scanned = 0
        self.found: list[Any] = []
        """Pairs of a row and its value's JSON."""

    @property
    def is_over(self) -> bool:
        """Whether no further row can change what was found."""
        return len(self.found) >= self._limit

    def take(self, rows: Iterable[tuple[Any, bytes]]) -> None:
        """Look at rows, each with its value's JSON.

        Raises:
            BadRequest: they are too many.
        """
        for row, value in rows:
            self._scanned += 1
            if self._scanned > MAX_SCANNED:
                raise BadRequest(
                    f"this search would have to decrypt more than {MAX_SCANNED} items: search "
                    "below a longer namespace"
                )
            if not matches(self._conditions, wire.loads(value)):
                continue
            if self._skipped < self._offset:
                self._skipped += 1
                continue
            self.found.append((row, value))
            if self.is_over:
                return


def opened(rows: Iterable[Any]) -> Iterator[tuple[Any, bytes]]:
    """Rows of the API's searches, each with its value's JSON."""
    return ((row, from_stored(row.value)) for row in rows)
