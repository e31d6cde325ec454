"""Callers of an owner who needs no code: everyone who has one of the keys."""

import hmac
from collections.abc import Sequence

from greenroom.auth.caller import Caller
from greenroom.auth.settings import ApiKey, hash_key
from greenroom.errors import Refused

HEADER = "x-api-key"


def identify(keys: Sequence[ApiKey], given: str | None) -> Caller:
    """Find whose key this is; looks at all of them, so that the time tells nothing.

    Raises:
        Refused: it is nobody's, or there is none.
    """
    digest = hash_key(given or "")
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    if found is None or not given:
        raise Refused(401, f"Unauthorized: send a key in the header {HEADER}")
    user = {
        "identity": found.name,
        "display_name": found.name,
        "is_authenticated": True,
        "permissions": [],
    }
    return Caller(found.name, user)
