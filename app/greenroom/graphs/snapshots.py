"""Checkpoints as they were shown, kept as JSON; `history` tells when one still holds."""

from collections import OrderedDict

OVERHEAD_BYTES = 600
"""What an entry takes beside its texts."""
LARGEST_SHARE = 4
"""A snapshot that takes more than this part of all is not kept."""

View = tuple[str, str, str]
"""Who shows: graph, thread, and the namespace as the request names it."""
Key = tuple[View, str, str]
"""What is shown: the namespace and the id of the checkpoint."""


class Snapshots:
    """Snapshots of static graphs, the least recently shown go first. Belongs to one loop.

    Args:
        most_bytes: of all together; 0 keeps none.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self.generation = 0
        """Changes when everything is forgotten."""
        self._kept: OrderedDict[Key, tuple[str, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Key, row_print: str) -> bytes | None:
        """The snapshot as JSON; None if its rows have changed or it is not known."""
        kept = self._kept.get(key)
        if kept is None or kept[0] != row_print:
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def keep(self, key: Key, row_print: str, body: bytes) -> None:
        """Remember a snapshot in place of an older one."""
        self._drop(key)
        size = _size(row_print, body)
        if size * LARGEST_SHARE > self.most_bytes:
            return
        self._kept[key] = (row_print, body)
        self.bytes += size
        while self.bytes > self.most_bytes:
            self._drop(next(iter(self._kept)))

    async def forget(self, _: object = None) -> None:
        """Forget everything: a new connection may lead to a server that took the place of another.

        After a failover that lost transactions their numbers are given anew, to other rows.
        """
        self._kept.clear()
        self.bytes = 0
        self.generation += 1

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= _size(*kept)


def _size(row_print: str, body: bytes) -> int:
    return len(body) + len(row_print) + OVERHEAD_BYTES
