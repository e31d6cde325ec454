"""How many requests one caller may make (GREENROOM_RATE_LIMIT), counted in Redis."""

import hashlib
import time

from flask import Flask, Response, g, request
from limits import RateLimitItem, parse
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis import Redis, RedisError

from greenroom.auth.caller import Caller
from greenroom.errors import ConfigError, Refused
from greenroom.logs import get_logger
from greenroom.signals.keys import Keys

log = get_logger(__name__)


class RateLimit:
    """One rule for every caller; each has a count of their own."""

    def __init__(self, rule: str, redis_uri: str, client: Redis, keys: Keys) -> None:
        self._item = read_rule(rule)
        storage = RedisStorage(
            redis_uri, connection_pool=client.connection_pool, key_prefix=keys.rates
        )
        self._limiter = FixedWindowRateLimiter(storage)

    def take(self, caller: Caller) -> None:
        """Count a request of a caller, or of an address where nobody is asked who they are.

        Without Redis nobody is refused: it may be lost at any time.

        Raises:
            Refused: 429, until the window ends.
        """
        who = hashlib.sha256((caller.identity or request.remote_addr or "").encode()).hexdigest()
        try:
            is_within = self._limiter.hit(self._item, who)
            window = self._limiter.get_window_stats(self._item, who)
        except RedisError as error:
            log.warning("requests not counted", error=repr(error))
            return
        seconds = max(0, round(window.reset_time - time.time()))
        g.rate_headers = {
            "ratelimit-limit": str(self._item.amount),
            "ratelimit-remaining": str(window.remaining),
            "ratelimit-reset": str(seconds),
        }
        if not is_within:
            raise Refused(
                429, f"Too many requests: {self._item}", {"retry-after": str(max(1, seconds))}
            )


def read_rule(rule: str) -> RateLimitItem:
    """Read `100/minute`, `10 per second`, `5000/2hours`.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        return parse(rule)
    except ValueError as error:
        raise ConfigError(
            f"GREENROOM_RATE_LIMIT must be like 100/minute or 10 per second, not {rule!r}"
        ) from error


def install(app: Flask) -> None:
    """Tell callers how much they have left."""

    @app.after_request
    def tell(response: Response) -> Response:
        for name, value in (g.get("rate_headers") or {}).items():
            response.headers[name] = value
        return response
