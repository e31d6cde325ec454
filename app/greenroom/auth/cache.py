"""Callers that were known a moment ago, so that not every request asks the owner's handler."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping

from greenroom.auth.caller import Caller
from greenroom.auth.settings import CacheSettings


class CallerCache:
    """Remembers successes alone, by the headers that `auth.cache.cache_keys` names."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._callers: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def key(self, headers: Mapping[str, str]) -> bytes | None:
        """What tells one caller from another; None: the request has none of the headers.

        A digest: tokens are not kept.
        """
        given = [headers.get(name) for name in self._settings.headers]
        if not any(given):
            return None
        # The length in front keeps two headers from being read as others that join up alike.
        parts = (f"{-1 if each is None else len(each)}:{each or ''}" for each in given)
        return hashlib.sha256("".join(parts).encode("utf-8", "surrogateescape")).digest()

    def find(self, key: bytes | None) -> Caller | None:
        """The caller that is known by this key, while the answer is fresh."""
        if key is None or key not in self._callers:
            return None
        good_until, caller = self._callers[key]
        if time.monotonic() >= good_until:
            del self._callers[key]
            return None
        self._callers.move_to_end(key)
        return caller

    def keep(self, key: bytes | None, caller: Caller) -> None:
        """Remember a caller; the one that was asked for least recently makes room."""
        if key is None:
            return
        self._callers[key] = (time.monotonic() + self._settings.ttl_seconds, caller)
        self._callers.move_to_end(key)
        while len(self._callers) > self._settings.max_size:
            self._callers.popitem(last=False)
