"""Users' graphs: loading, reading and drawing them, and the process that does so for the web.

The web process imports `client` alone; the other modules import langgraph or users' code.
"""

from greenroom.config import prefer_strict_msgpack

prefer_strict_msgpack()
