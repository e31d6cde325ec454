"""Tenants whose token is their name, a reader who may only read, and tokens that go wrong."""

import asyncio
from typing import Any

from langgraph_sdk import Auth

auth = Auth()
TOKENS = {
    "ann": ["write"],
    "bob": ["write"],
    "reader": [],
    "dotted": ["write"],
}
WRITES = {"create", "update", "delete", "create_run", "put"}
calls = {"authenticate": 0}


@auth.authenticate
async def authenticate(
    authorization: str | None, headers: dict[bytes, bytes], method: str, path: str
) -> Any:
    """Who calls: `Bearer <name>`."""
    calls["authenticate"] += 1
    scheme, _, token = (authorization or "").partition(" ")
    if token == "sleepy":
        await asyncio.sleep(60)
    if token == "broken":
        raise RuntimeError("secret detail of the owner's code")
    if token == "unreadable":
        raise ValueError("secret detail of the owner's code")
    if token == "nobody":
        return None
    if token == "suspended":
        return {"identity": "suspended", "is_authenticated": False}
    if token == "teapot":
        raise Auth.exceptions.HTTPException(
            418, "short and stout", {"X-Pot": "tea", "X-Bad": "a\r\nSet-Cookie: b=c"}
        )
    if scheme != "Bearer" or token not in TOKENS:
        raise Auth.exceptions.HTTPException(
            401, "Invalid token", headers={"WWW-Authenticate": "Bearer"}
        )
    identity = "bob.x" if token == "dotted" else token
    return {
        "identity": identity,
        "permissions": TOKENS[token],
        "token": f"secret of {token}",
        "calls": calls["authenticate"],
    }


@auth.on
async def own(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> Any:
    """Everybody has what is their own; without `write` nothing changes."""
    if ctx.action in WRITES and "write" not in ctx.permissions:
        raise Auth.exceptions.HTTPException(403, "read only")
    # The reader reads what is ann's.
    owner = "ann" if ctx.user.identity == "reader" else ctx.user.identity
    if ctx.action in {"create", "create_run"}:
        value.setdefault("metadata", {})["owner"] = owner
    return {"owner": owner}


@auth.on.store
async def own_items(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> Any:
    """Items lie below the caller's name."""
    if ctx.action in {"put", "delete"} and "write" not in ctx.permissions:
        return False
    owner = "ann" if ctx.user.identity == "reader" else ctx.user.identity
    value["namespace"] = (owner, *(value["namespace"] or ()))
    return None
