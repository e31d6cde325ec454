"""A page of a search, and the headers that tell what else there is (http.md, section 0)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, literal, select

AnyRow = Row[*tuple[Any, ...]]
"""A row of whatever a query selects."""
COUNTED_ROWS = 10_000
"""Matches that are counted at most: a total of a million is not worth reading a million rows."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of all that match.

    `total` is true up to COUNTED_ROWS, and a lower bound above. `next_offset` is None on the last
    page.
    """

    rows: Sequence[AnyRow]
    total: int
    next_offset: int | None

    @property
    def headers(self) -> dict[str, str]:
        """The pagination headers of the answer."""
        headers = {"x-pagination-total": str(self.total)}
        if self.next_offset is not None:
            headers["x-pagination-next"] = str(self.next_offset)
        return headers


def read_page(
    connection: Connection, query: Select[Any], order: Sequence[Any], limit: int, offset: int
) -> Page:
    """Read one page of `query`; counts only when the page itself does not tell the total."""
    found = connection.execute(query.order_by(*order).limit(limit + 1).offset(offset)).all()
    rows = found[:limit]
    seen = offset + len(rows)
    has_more = len(found) > limit
    if not has_more and (rows or not offset):
        return Page(rows, seen, None)
    counted = max(COUNTED_ROWS, seen + 1) if has_more else COUNTED_ROWS
    matches = query.with_only_columns(literal(1), maintain_column_froms=True).limit(counted)
    total = connection.execute(select(func.count()).select_from(matches.subquery())).scalar_one()
    # Rows may come and go between the two statements.
    return Page(rows, max(total, seen + 1) if has_more else total, seen if has_more else None)
