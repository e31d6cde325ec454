"""Checkpoints as they were shown, kept as JSON; `history` tells when one still holds."""

import mmap
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

OVERHEAD_BYTES = 600
"""What an entry takes beside its JSON."""
LARGEST_SHARE = 4
"""A snapshot that takes more than this part of all is not kept."""

View = tuple[str, str, str]
"""Who shows: graph, thread, and the namespace as the request names it."""
Key = tuple[View, str, str]
"""What is shown: the namespace and the id of the checkpoint."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a snapshot lies, and of which rows it was made."""

    print: str
    start: int
    end: int
    """Of what is taken; the JSON ends OVERHEAD_BYTES before."""


class Snapshots:
    """Snapshots of static graphs, in one ring of memory: the oldest make room for the newest.

    Not objects of their own: kept among the large ones that each history makes and drops, 8 MB of
    them left the process with 40 MB of gaps. Belongs to one loop.

    Args:
        most_bytes: of all together; 0 keeps none. Memory that was never written takes no room.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.generation = 0
        """Changes when everything is forgotten."""
        self._ring = self._blank()
        self._next = 0
        self._places: OrderedDict[Key, Place] = OrderedDict()
        """In the order of the ring, from `_next` on."""

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: Key, row_print: str) -> bytes | None:
        """The snapshot as JSON; None if its rows have changed or it is not known."""
        place = self._places.get(key)
        if place is None or place.print != row_print:
            return None
        return self._ring[place.start : place.end - OVERHEAD_BYTES]

    def keep(self, key: Key, row_print: str, body: bytes) -> None:
        """Remember a snapshot in place of an older one."""
        self._places.pop(key, None)
        taken = len(body) + OVERHEAD_BYTES
        if taken * LARGEST_SHARE > self.most_bytes:
            return
        start = self._make_room(taken)
        self._ring[start : start + len(body)] = body
        self._places[key] = Place(row_print, start, start + taken)

    async def forget(self, _: object = None) -> None:
        """Forget everything: a new connection may lead to a server that took the place of another.

        After a failover that lost transactions their numbers are given anew, to other rows.
        """
        self._places.clear()
        self._ring.close()
        self._ring, self._next = self._blank(), 0
        self.generation += 1

    def _blank(self) -> mmap.mmap:
        # Even where nothing is kept: an empty mapping is an error.
        return mmap.mmap(-1, max(self.most_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _make_room(self, taken: int) -> int:
        """Take the next part of the ring from those who have it; where it starts."""
        if self._next + taken > self.most_bytes:
            self._drop_while(lambda place: place.start >= self._next)
            self._next = 0
        start = self._next
        self._next = end = start + taken
        self._drop_while(lambda place: place.start < end and place.end > start)
        return start

    def _drop_while(self, is_in_the_way: Callable[[Place], bool]) -> None:
        while self._places and is_in_the_way(next(iter(self._places.values()))):
            self._places.popitem(last=False)
