"""Histories whose known snapshots are not made again: only what is new is read and decoded.

A snapshot is made of a row of `checkpoints`, of the values that it points at, which never change
while it is there, and of its rows in `checkpoint_writes`, which come, change and go. Every version
of a row has its own place and transaction (`ctid`, `xmin`), so those of all these rows tell whether
a snapshot is still what langgraph would make: this is its print, and it is read anew each time.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory
from langgraph.checkpoint.serde.base import SerializerProtocol

from greenroom.graphs.encoding import encode_json
from greenroom.graphs.persistence import ObservingSaver, Pool
from greenroom.graphs.snapshots import Key, Snapshots, View

AMONG = "__greenroom_among"
"""Key of a configurable: the ids of the checkpoints to list."""
SELF_CONTAINED = 4
"""The first version of checkpoints that hold their sends, and not their parent for them."""
PRINTS = """
    SELECT checkpoint_id, checkpoint_ns, concat_ws(' ', checkpoints.xmin, checkpoints.ctid, (
               SELECT string_agg(concat(writes.xmin, writes.ctid), ' ')
                 FROM checkpoint_writes AS writes
                WHERE writes.thread_id = checkpoints.thread_id
                  AND writes.checkpoint_ns = checkpoints.checkpoint_ns
                  AND writes.checkpoint_id = checkpoints.checkpoint_id)) AS print
      FROM checkpoints """


@dataclass(slots=True)
class Listed:
    """One checkpoint of a page."""

    namespace: str
    checkpoint_id: str
    print: str
    body: bytes | None
    """None: not known, or not any more."""
    can_be_kept: bool = True


class Page:
    """What one request shows, the known and the new."""

    def __init__(self, snapshots: Snapshots, view: View) -> None:
        self.can_be_kept = True
        """False when a value is made of other checkpoints than its own (DeltaChannel)."""
        self._snapshots = snapshots
        self._view = view
        self._generation = snapshots.generation
        self._listed: list[Listed] | None = None
        """None: the graph has asked another saver."""

    def begin(self) -> None:
        """Before the prints are read: what is forgotten from here on is not put back."""
        self._generation = self._snapshots.generation

    def show(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Take rows of PRINTS; the ids of those whose snapshots are to be made."""
        self._listed = [
            Listed(
                row["checkpoint_ns"],
                row["checkpoint_id"],
                row["print"],
                self._snapshots.find(self._key(row), row["print"]),
            )
            for row in rows
        ]
        return [each.checkpoint_id for each in self._listed if each.body is None]

    def leave_out(self, checkpoint_id: str) -> None:
        """Do not keep this one."""
        for each in self._listed or ():
            if each.checkpoint_id == checkpoint_id:
                each.can_be_kept = False

    def complete(self, states: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """The whole page as JSON, given the states that were to be made; keeps these.

        One that was removed between its print and its state is left out.
        """
        bodies = [encode_json(state) for state in states]
        if self._listed is None:
            return bodies
        made = dict(zip((state["checkpoint_id"] for state in states), bodies, strict=True))
        for each in self._listed:
            if each.body is None:
                each.body = made.get(each.checkpoint_id)
                self._keep(each)
        return [each.body for each in self._listed if each.body is not None]

    def _keep(self, one: Listed) -> None:
        is_current = self._generation == self._snapshots.generation
        if one.body is not None and one.can_be_kept and self.can_be_kept and is_current:
            key = (self._view, one.namespace, one.checkpoint_id)
            self._snapshots.keep(key, one.print, one.body)

    def _key(self, row: Mapping[str, Any]) -> Key:
        return self._view, row["checkpoint_ns"], row["checkpoint_id"]


class PageSaver(ObservingSaver):
    """For one history: lists only those checkpoints whose snapshots are not known."""

    def __init__(self, pool: Pool, serde: SerializerProtocol, page: Page) -> None:
        super().__init__(pool, serde=serde)
        self.page = page

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 (the base class's word)
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See the base class. What is left out stands on the page.

        Prints are read before the rows that they belong to. So a print may be older than what is
        kept under it, and then fits nothing any more; it never is newer.
        """
        where, values = self._search_where(config, filter, before)
        statement = f"{PRINTS}{where} ORDER BY checkpoint_id DESC LIMIT %s"
        async with self._cursor() as cursor:
            self.page.begin()
            await cursor.execute(statement, (*values, limit), binary=True)
            unknown = self.page.show(await cursor.fetchall())
        if not unknown or config is None:
            return
        asked = {**config["configurable"], AMONG: unknown}
        async for found in super().alist({**config, "configurable": asked}):
            if found.checkpoint["v"] < SELF_CONTAINED:
                self.page.leave_out(found.checkpoint["id"])
            yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See the base class."""
        self.page.can_be_kept = False
        return await super().aget_delta_channel_history(config=config, channels=channels)

    def _search_where(
        self,
        config: RunnableConfig | None,
        filter: dict[str, Any] | None,  # noqa: A002 (the base class's word)
        before: RunnableConfig | None = None,
    ) -> tuple[str, list[Any]]:
        where, values = super()._search_where(config, filter, before)
        among = (config or {}).get("configurable", {}).get(AMONG)
        if among is None:
            return where, values
        return f"{where} AND checkpoint_id = ANY(%s)", [*values, among]
