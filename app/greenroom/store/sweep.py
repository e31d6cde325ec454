"""Deleting expired items, a little at a time."""

import time

from sqlalchemy import Connection

from greenroom.config import Project
from greenroom.store import queries
from greenroom.store.settings import read_settings

BATCH = 500


class StoreSweep:
    """One process's share: at most one batch a round, and a pause once there is nothing left.

    Costs one look at an index of items that have a ttl where none has.
    """

    def __init__(self, project: Project) -> None:
        self._interval_seconds = read_settings(project).sweep_interval_minutes * 60
        self._next = time.monotonic()

    def run(self, connection: Connection) -> None:
        """Delete a batch if it is time to."""
        if time.monotonic() < self._next:
            return
        if queries.delete_expired(connection, BATCH) < BATCH:
            self._next = time.monotonic() + self._interval_seconds
