"""The SQL of store items, in the tables that langgraph's Postgres store makes and uses.

`prefix` is a namespace's labels joined by dots (a label holds none). An item whose `expires_at` has
come does not exist any more, swept or not. `ttl_minutes` is what a read prolongs it by.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from greenroom.database.pages import AnyRow
from greenroom.store.filters import Condition
from greenroom.store.sealed import FETCH, PAGE, Scan, declare, opened, to_store

WILDCARD = "*"
LIVE = "(expires_at IS NULL OR expires_at > now())"
# A read never shortens a life: langgraph rounds `ttl_minutes`, down to nought for some.
PROLONGED = "greatest(store.expires_at, now() + make_interval(mins => store.ttl_minutes))"
# As text: a float for a large integer would be another number.
ITEM = "prefix, key, CAST(value AS text) AS value, created_at, updated_at"

PUT = text(
    """
    INSERT INTO store (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes)
    VALUES (:prefix, :key, CAST(:value AS jsonb), now(), now(),
            now() + make_interval(secs => CAST(:ttl_seconds AS double precision)),
            CAST(:ttl_minutes AS integer))
    ON CONFLICT (prefix, key) DO UPDATE
       SET value = excluded.value,
           created_at = CASE WHEN store.expires_at <= now() THEN excluded.created_at
                             ELSE store.created_at END,
           updated_at = excluded.updated_at,
           expires_at = excluded.expires_at,
           ttl_minutes = excluded.ttl_minutes
    """
)
FORGET_VECTORS = text("DELETE FROM store_vectors WHERE prefix = :prefix AND key = :key")
FIND = f"SELECT {ITEM} FROM store WHERE prefix = :prefix AND key = :key AND {LIVE}"
REFRESH = f"""
WITH refreshed AS (
    UPDATE store SET expires_at = {PROLONGED}
     WHERE prefix = :prefix AND key = :key AND ttl_minutes IS NOT NULL AND expires_at > now()
)
"""
SEARCH_ORDER = "ORDER BY updated_at DESC, prefix, key"
# What follows a CTE `found`, also in langgraph's searches.
# Locked rows are being prolonged or replaced by somebody else already; waiting could deadlock.
REFRESH_FOUND = f"""
, due AS (
    SELECT store.prefix, store.key
      FROM store JOIN found USING (prefix, key)
     WHERE store.ttl_minutes IS NOT NULL
       FOR UPDATE OF store SKIP LOCKED
), refreshed AS (
    UPDATE store SET expires_at = {PROLONGED}
      FROM due
     WHERE store.prefix = due.prefix AND store.key = due.key
)
"""
REFRESH_THESE = f"""
WITH found AS (
    SELECT * FROM unnest(CAST(:prefixes AS text[]), CAST(:keys AS text[])) AS these (prefix, key)
) {REFRESH_FOUND} SELECT
"""
DELETE_EXPIRED = text(
    """
    DELETE FROM store
     USING (SELECT prefix, key FROM store
             WHERE expires_at <= now()
             ORDER BY expires_at
             LIMIT :limit
               FOR UPDATE SKIP LOCKED) AS expired
     WHERE store.prefix = expired.prefix AND store.key = expired.key
    """
)


def put_item(
    connection: Connection, prefix: str, key: str, value: bytes, *, ttl_minutes: float | None
) -> None:
    """Write an item, or replace it: only its creation time stays.

    Args:
        value: JSON of an object.
        ttl_minutes: None: it stays.
    """
    connection.execute(
        PUT,
        {
            "prefix": prefix,
            "key": key,
            "value": to_store(value),
            "ttl_seconds": None if ttl_minutes is None else ttl_minutes * 60,
            "ttl_minutes": None if ttl_minutes is None else math.ceil(ttl_minutes),
        },
    )


def forget_vectors(connection: Connection, prefix: str, key: str) -> None:
    """Delete what an index knows of an item. Wants the lock that writing the item has taken.

    There is a table to delete from only when `store.index` is configured.
    """
    connection.execute(FORGET_VECTORS, {"prefix": prefix, "key": key})


def find_item(connection: Connection, prefix: str, key: str, *, refresh: bool) -> AnyRow | None:
    """One item, or None; `refresh` begins its ttl anew."""
    query = text((REFRESH if refresh else "") + FIND)
    return connection.execute(query, {"prefix": prefix, "key": key}).one_or_none()


def delete_item(connection: Connection, prefix: str, key: str) -> None:
    """Remove an item if it is there, and its vectors."""
    connection.execute(
        text("DELETE FROM store WHERE prefix = :prefix AND key = :key"),
        {"prefix": prefix, "key": key},
    )


def search_items(
    connection: Connection,
    labels: Sequence[str],
    conditions: Sequence[Condition],
    *,
    limit: int,
    offset: int,
    refresh: bool,
) -> Sequence[AnyRow]:
    """Items at or below a namespace that meet all conditions, the last changed first."""
    parameters: dict[str, Any] = {"limit": limit, "offset": offset}
    where = [LIVE, *_at_or_below(labels, parameters)]
    for condition in conditions:
        names = [f"operand{len(parameters) + number}" for number in range(len(condition.operands))]
        where.append(condition.sql.format(*(f":{name}" for name in names)))
        parameters.update(zip(names, condition.operands, strict=True))
    statement = f"""
        WITH found AS (
            SELECT prefix, key, value, created_at, updated_at FROM store
             WHERE {" AND ".join(where)} {SEARCH_ORDER} LIMIT :limit OFFSET :offset
        ) {REFRESH_FOUND if refresh else ""}
        SELECT {ITEM} FROM found {SEARCH_ORDER}
    """
    return connection.execute(text(statement), parameters).all()


def scan_items(connection: Connection, labels: Sequence[str], scan: Scan, *, refresh: bool) -> None:
    """As `search_items` of items that only we can read; wants a transaction.

    Raises:
        BadRequest: they are too many.
        WrongKey: one is encrypted with a key that this process does not have.
    """
    parameters: dict[str, Any] = {}
    where = [LIVE, *_at_or_below(labels, parameters)]
    statement = f"SELECT {ITEM} FROM store WHERE {' AND '.join(where)} {SEARCH_ORDER}"
    connection.execute(text(declare(statement)), parameters)
    while not scan.is_over:
        rows = connection.execute(text(FETCH)).all()
        scan.take(opened(rows))
        if len(rows) < PAGE:
            break
    if refresh and scan.found:
        found = [row for row, _ in scan.found]
        names = {"prefixes": [row.prefix for row in found], "keys": [row.key for row in found]}
        connection.execute(text(REFRESH_THESE), names)


def list_namespaces(
    connection: Connection,
    *,
    prefix: Sequence[str],
    suffix: Sequence[str],
    max_depth: int | None,
    limit: int,
    offset: int,
) -> list[list[str]]:
    """Namespaces that hold items, label by label in order of code points.

    Args:
        prefix: first labels; `*` stands for any one label.
        suffix: last labels, likewise.
        max_depth: cut to so many labels, each result once; None does not cut.
    """
    parameters: dict[str, Any] = {"limit": limit, "offset": offset, "max_depth": max_depth}
    literal = prefix[: prefix.index(WILDCARD)] if WILDCARD in prefix else prefix
    inner = [LIVE, *_at_or_below(literal, parameters)]
    outer = [f"cardinality(labels) >= {max(len(prefix), len(suffix))}"]
    for position, label in enumerate(prefix, 1):
        if label != WILDCARD:
            outer.append(f"labels[{position}] = :prefix{position}")
            parameters[f"prefix{position}"] = label
    for position, label in enumerate(reversed(suffix)):
        if label != WILDCARD:
            outer.append(f"labels[cardinality(labels) - {position}] = :suffix{position}")
            parameters[f"suffix{position}"] = label
    statement = f"""
        SELECT DISTINCT labels[1:COALESCE(CAST(:max_depth AS integer), cardinality(labels))]
          FROM (SELECT string_to_array(prefix COLLATE "C", '.') AS labels
                  FROM (SELECT DISTINCT prefix FROM store WHERE {" AND ".join(inner)}) AS used
               ) AS namespace
         WHERE {" AND ".join(outer)}
         ORDER BY 1 LIMIT :limit OFFSET :offset
    """
    return list(connection.execute(text(statement), parameters).scalars())


def delete_expired(connection: Connection, limit: int) -> int:
    """Delete up to `limit` expired items; how many there were."""
    return connection.execute(DELETE_EXPIRED, {"limit": limit}).rowcount


def _at_or_below(labels: Sequence[str], parameters: dict[str, Any]) -> list[str]:
    """Match whole labels: `a` and `a.b`, not `ab`. Both arms have an index."""
    if not labels:
        return []
    path = ".".join(labels)
    escaped = re.sub(r"([\\%_])", r"\\\1", path)
    parameters.update({"at": path, "below": f"{escaped}.%"})
    return ["(prefix = :at OR prefix LIKE :below)"]
