"""The worker process: wakes at the bell, claims runs, executes graphs, keeps leases alive."""

from greenroom.config import prefer_strict_msgpack

prefer_strict_msgpack()
