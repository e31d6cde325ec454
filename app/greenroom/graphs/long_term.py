"""Long-term memory with the project's settings: what graphs and the API search by meaning."""

import asyncio
import importlib
import inspect
import json
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import psycopg
from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    BaseStore,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PLACEHOLDER, ANNIndexConfig, PostgresIndexConfig
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from greenroom import encryption, wire
from greenroom.config import Project
from greenroom.errors import BadRequest, ConfigError, GraphFault, InvalidRequest
from greenroom.graphs.factories import run_in_thread
from greenroom.graphs.registry import _import_file, _module_name
from greenroom.store.filters import Condition, read_member
from greenroom.store.queries import REFRESH_FOUND
from greenroom.store.sealed import FETCH, MAX_SCANNED, PAGE, Scan, declare, unseal
from greenroom.store.settings import StoreSettings, read_settings

MAX_TEXTS = 10_000
"""To embed of one item; each takes four of a statement's 65,535 parameters."""

Vectors = list[list[float]]
Pool = AsyncConnectionPool[AsyncConnection[DictRow]]


def open_store(pool: Pool, project: Project) -> AsyncPostgresStore:
    """Open the store of langgraph.json's `store` block. Belongs to the running loop.

    Raises:
        ConfigError: the block is wrong, or its embedding function cannot be loaded.
    """
    settings = read_settings(project)
    ttl = _ttl_config(settings)
    if settings.index is None:
        return LongTermStore(pool, deserializer=open_value, ttl=ttl)
    embeddings = load_embeddings(settings.index.embed, project.directory)
    index = PostgresIndexConfig(
        dims=settings.index.dims,
        embed=ApartEmbeddings(embeddings, settings.index.dims),
        fields=list(settings.index.fields),
        ann_index_config=ANNIndexConfig(kind="flat"),
    )
    return LongTermStore(pool, deserializer=open_value, index=index, ttl=ttl)


def _ttl_config(settings: StoreSettings) -> TTLConfig:
    return TTLConfig(
        refresh_on_read=settings.refresh_on_read,
        omit_expired=True,
        default_ttl=settings.default_ttl_minutes,
        sweep_interval_minutes=None,
    )


async def put_item(store: BaseStore, request: Mapping[str, Any]) -> None:
    """Embed an item and write it.

    Args:
        request: `namespace`, `key`, `value`, `index` (paths; None takes the configured ones) and
            `ttl_minutes` (None: it stays).
    Raises:
        InvalidRequest: its paths lead to too many texts, or two of them to one name.
        GraphFault: the embeddings are not what `store.index` promises.
    """
    # Not `aput`, which lets one caller at a time embed.
    put = PutOp(
        tuple(request["namespace"]),
        request["key"],
        request["value"],
        request.get("index"),
        request.get("ttl_minutes"),
    )
    try:
        await store.abatch([put])
    except psycopg.errors.CardinalityViolation as error:
        # `*` and `*.0`: the first numbers its texts, and calls one of them like the second.
        raise InvalidRequest("two paths of index name the same vector") from error


async def search_items(store: BaseStore, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Find the items nearest to a query, as the API shows them.

    Args:
        request: `labels`, `query`, `filter`, `limit`, `offset`, `refresh`.
    Raises:
        GraphFault: as `put_item`.
    """
    limit, offset = request["limit"], request["offset"]
    search = SearchOp(
        tuple(request["labels"]),
        filter=request.get("filter"),
        # langgraph reads about as many vectors as the limit wants, whatever the offset.
        limit=offset + limit,
        offset=0,
        query=request["query"],
        refresh_ttl=request["refresh"],
    )
    (found,) = await store.abatch([search])
    return [_wire_item(item) for item in found[offset:] if isinstance(item, SearchItem)]  # type: ignore[index]


def _wire_item(item: SearchItem) -> dict[str, Any]:
    return {
        "namespace": item.namespace,
        "key": item.key,
        "value": item.value,
        "created_at": item.created_at,
        "updated_at": item.updated_at,
        "score": item.score,
    }


class LongTermStore(AsyncPostgresStore):
    """langgraph's store by the rules of our API; holds no connection while users' code embeds."""

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """See the base class."""
        ops = [_explicit(op) for op in ops]
        if not isinstance(self.embeddings, ApartEmbeddings):
            return await super().abatch(ops)
        # The base class would embed with a connection in hand, which checkpoints may wait for.
        texts = list(dict.fromkeys(text for op in ops for text in self._texts(op)))
        vectors = await self.embeddings.aembed_documents(texts) if texts else []
        token = _ready.set(dict(zip(texts, vectors, strict=True)))
        try:
            return await super().abatch(ops)
        finally:
            _ready.reset(token)

    def _texts(self, op: Op) -> Iterator[str]:
        """List what the base class will want to embed."""
        match op:
            case SearchOp(query=str(query)) if query:
                yield query
            case PutOp(value=dict(value), index=index) if index is not False:
                fields: Any = self.index_config and self.index_config.get("__tokenized_fields")
                paths = fields if index is None else [(path, tokenize_path(path)) for path in index]
                texts = [text for _, path in paths for text in get_text_at_path(value, path)]
                if len(texts) > MAX_TEXTS:
                    raise InvalidRequest(f"an item has more than {MAX_TEXTS} texts to embed")
                yield from texts

    async def _batch_search_ops(
        self, search_ops: Any, results: list[Result], cur: AsyncCursor[DictRow]
    ) -> None:
        plain = []
        for number, op in search_ops:
            if op.filter and encryption.is_on():
                results[number] = await self._scan(op, cur)
            else:
                plain.append((number, op))
        if plain:
            await super()._batch_search_ops(plain, results, cur)

    async def _scan(self, op: SearchOp, cur: AsyncCursor[DictRow]) -> list[SearchItem]:
        """Search by a filter that Postgres cannot look into: read all, decrypt, and choose."""
        scan = Scan(_conditions(op.filter or {}), limit=op.limit, offset=op.offset)
        unfiltered = op._replace(filter=None, refresh_ttl=False, limit=MAX_SCANNED + 1, offset=0)
        ((sql, parameters),), wanted = super()._prepare_batch_search_queries([(0, unfiltered)])
        if wanted and self.embeddings:
            (vector,) = await self.embeddings.aembed_documents([op.query or ""])
            parameters = [vector if each is PLACEHOLDER else each for each in parameters]
        async with cur.connection.transaction():
            await cur.execute(declare(sql), parameters)
            while not scan.is_over:
                await cur.execute(FETCH)
                rows = await cur.fetchall()
                scan.take((row, unseal(row["value"])) for row in rows)
                if len(rows) < PAGE:
                    break
        if op.refresh_ttl and scan.found:
            prefixes = [row["prefix"] for row, _ in scan.found]
            await cur.execute(REFRESH_THESE, [prefixes, [row["key"] for row, _ in scan.found]])
        return [_found_item(row, value) for row, value in scan.found]

    def _prepare_batch_search_queries(self, search_ops: Any) -> Any:
        # langgraph's way to prolong lives deadlocks when two searches find the same items.
        idle = [(number, op._replace(refresh_ttl=False)) for number, op in search_ops]
        queries, embedding = super()._prepare_batch_search_queries(idle)
        refreshing = [
            (f"WITH found AS ({sql}) {REFRESH_FOUND} SELECT * FROM found", parameters)
            if op.refresh_ttl
            else (sql, parameters)
            for (sql, parameters), (_, op) in zip(queries, search_ops, strict=True)
        ]
        return refreshing, embedding

    def _prepare_batch_PUT_queries(self, put_ops: Any) -> Any:  # noqa: N802 (langgraph's name)
        # In one order everywhere: two batches with the same items must not wait for one another.
        put_ops = sorted(put_ops, key=lambda each: (each[1].namespace, each[1].key))
        queries, embedding = super()._prepare_batch_PUT_queries(put_ops)
        if encryption.is_on():
            queries = [(sql, [_sealed(each) for each in parameters]) for sql, parameters in queries]
        puts = [op for _, op in put_ops if op.value is not None]
        if self.index_config and puts:
            # Else a put that embeds less than the one before would leave vectors of the old value.
            prefixes = [".".join(op.namespace) for op in puts]
            # After the items: everybody locks an item before its vectors.
            queries.append((FORGET_VECTORS, [prefixes, [op.key for op in puts]]))
        for op in puts:
            if op.ttl is not None and op.ttl != int(op.ttl):
                # The column is an integer: half a minute became nought, and a read ended the item.
                minutes = math.ceil(op.ttl)
                queries.append((SET_MINUTES, [minutes, ".".join(op.namespace), op.key]))
        return queries, embedding

    def _get_filter_condition(self, key: str, op: str, value: Any) -> tuple[str, list[Any]]:
        conditions = _conditions({key: {op: value}})
        parts = [each.sql.format(*["%s"] * len(each.operands)) for each in conditions]
        return " AND ".join(parts), [operand for each in conditions for operand in each.operands]


def _explicit(op: Op) -> Op:
    """Spell equality out, so that the base class asks us what it means."""
    if not isinstance(op, SearchOp) or not op.filter:
        return op
    filters = {
        name: wanted if isinstance(wanted, dict) else {"$eq": wanted}
        for name, wanted in op.filter.items()
    }
    return op._replace(filter=filters)


def _conditions(given: Mapping[str, Mapping[str, Any]]) -> list[Condition]:
    """Read a filter whose equalities are spelt out."""
    try:
        return [
            condition
            for key, wanted in given.items()
            for op, value in wanted.items()
            for condition in read_member([key], op, value)
        ]
    except BadRequest as error:
        # What langgraph's stores raise, for graphs that expect it.
        raise ValueError(str(error)) from error


def open_value(stored: Any) -> dict[str, Any]:
    """The value of an item that is not an object as it lies: it is encrypted.

    Raises:
        WrongKey: no key of this process fits.
    """
    value: dict[str, Any] = wire.loads(unseal(stored))
    return value


def _sealed(parameter: Any) -> Any:
    """Encrypt what would be JSONB; as strict as JSONB, else a graph would depend on its key."""
    if not isinstance(parameter, Jsonb):
        return parameter
    text = json.dumps(parameter.obj, allow_nan=False)
    if "\\u0000" in text:
        text = json.dumps(wire.clean(parameter.obj), allow_nan=False)
    return Jsonb(encryption.seal_text(text.encode()))


def _found_item(row: DictRow, value: bytes) -> SearchItem:
    return SearchItem(
        namespace=tuple(row["prefix"].split(".")),
        key=row["key"],
        value=wire.loads(value),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        score=None if row["score"] is None else float(row["score"]),
    )


REFRESH_THESE = (
    "WITH found AS (SELECT * FROM unnest(%s::text[], %s::text[]) AS these (prefix, key)) "
    f"{REFRESH_FOUND} SELECT"
)
FORGET_VECTORS = (
    "DELETE FROM store_vectors "
    "WHERE (prefix, key) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"
)
SET_MINUTES = "UPDATE store SET ttl_minutes = %s WHERE prefix = %s AND key = %s"

_ready: ContextVar[Mapping[str, list[float]]] = ContextVar("vectors that are ready")


class ApartEmbeddings(Embeddings):
    """Users' embeddings on a thread and loop of their own, where they may block."""

    def __init__(self, embeddings: Embeddings, dims: int) -> None:
        self._embeddings = embeddings
        self._dims = dims
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    async def aembed_documents(self, texts: list[str]) -> Vectors:
        """See the base class; asks for what is not ready yet.

        Raises:
            GraphFault: the answer has another form than langgraph.json says.
        """
        ready = _ready.get({})
        missing = [text for text in texts if text not in ready]
        if missing:
            work = self._embeddings.aembed_documents(missing)
            future = asyncio.run_coroutine_threadsafe(work, self._own_loop())
            vectors = self._check(await asyncio.wrap_future(future), len(missing))
            ready = {**ready, **dict(zip(missing, vectors, strict=True))}
        return [ready[text] for text in texts]

    async def aembed_query(self, text: str) -> list[float]:
        """See the base class."""
        return (await self.aembed_documents([text]))[0]

    def embed_documents(self, texts: list[str]) -> Vectors:
        """See the base class."""
        work = self.aembed_documents(texts)
        return asyncio.run_coroutine_threadsafe(work, self._own_loop()).result()

    def embed_query(self, text: str) -> list[float]:
        """See the base class."""
        return self.embed_documents([text])[0]

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="embeddings", daemon=True
                ).start()
            return self._loop

    def _check(self, found: Any, count: int) -> Vectors:
        try:
            vectors = [[float(number) for number in vector] for vector in found]
        except (TypeError, ValueError) as error:
            raise GraphFault("The embedding function did not return lists of numbers") from error
        if len(vectors) != count:
            raise GraphFault(
                f"The embedding function returned {len(vectors)} vectors for {count} texts"
            )
        for vector in vectors:
            if len(vector) != self._dims or not all(map(math.isfinite, vector)):
                raise GraphFault(
                    f"The embedding function returned a vector of {len(vector)} numbers that is "
                    f'not one of {self._dims} finite ones ("store.index.dims")'
                )
        return vectors


def load_embeddings(embed: str, directory: Path) -> Embeddings:
    """Load what `store.index.embed` names: a function, an Embeddings object, or a provider's model.

    Raises:
        ConfigError: it cannot be loaded; names the key and the reason.
    """
    # The first part: a model's name may hold colons and dots as well.
    provider = embed.partition(":")[0]
    is_model = "." not in provider and "/" not in provider
    try:
        value = ensure_embeddings(embed) if is_model else _import(embed, directory)
    except (Exception, SystemExit) as error:  # users' code may raise anything
        raise ConfigError(
            f'langgraph.json: "store.index.embed" is {embed!r}, which cannot be loaded: '
            f"{str(error) or type(error).__name__}"
        ) from error
    if isinstance(value, Embeddings) or _is_async(value):
        return ensure_embeddings(value)
    if callable(value):
        return ensure_embeddings(_threaded(value))
    raise ConfigError(
        f'langgraph.json: "store.index.embed" is {embed!r}, which is neither a function nor an '
        "Embeddings object"
    )


def _import(path: str, directory: Path) -> Any:
    location, _, name = path.rpartition(":")
    if "/" not in location and not location.endswith(".py"):
        module = importlib.import_module(location)
    # A graph's file that has the function, too, is not run twice.
    elif (loaded := sys.modules.get(_module_name(location))) is not None:
        module = loaded
    else:
        module = _import_file(location, directory, {})
    return getattr(module, name)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 (the method itself is asked about)
    )


def _threaded(function: Callable[[Sequence[str]], Vectors]) -> Any:
    async def embed(texts: Sequence[str]) -> Vectors:
        return await run_in_thread(function, texts)

    return embed
