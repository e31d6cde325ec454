"""Who calls: a signed token names the user and the organisation, and rows belong to both."""

import os
from typing import Any

import jwt
from langgraph_sdk import Auth

auth = Auth()
SECRET = os.environ["JWT_SECRET"]
WRITES = {"create", "update", "delete", "create_run"}


@auth.authenticate
async def authenticate(authorization: str | None) -> dict[str, Any]:
    """Check the token; whoever has none that is good is refused with 401."""
    token = (authorization or "").removeprefix("Bearer ")
    try:
        claims = jwt.decode(
            token, SECRET, algorithms=["HS256"], options={"require": ["exp", "sub", "org"]}
        )
    except jwt.InvalidTokenError as error:
        raise Auth.exceptions.HTTPException(
            status_code=401, detail="Invalid token", headers={"WWW-Authenticate": "Bearer"}
        ) from error
    return {
        "identity": claims["sub"],
        "org": claims["org"],
        "permissions": claims.get("permissions", []),
    }


@auth.on
async def refuse(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> bool:
    """What no handler below covers is nobody's."""
    return False


@auth.on(resources=["threads", "assistants", "crons"])
async def of_the_organisation(
    ctx: Auth.types.AuthContext, value: dict[str, Any]
) -> Auth.types.FilterType:
    """An organisation shares what its users make; nobody else sees it."""
    if ctx.action in WRITES and "write" not in ctx.permissions:
        raise Auth.exceptions.HTTPException(status_code=403, detail="This token may only read")
    if ctx.action in {"create", "create_run"}:
        value.setdefault("metadata", {}).update(org=ctx.user["org"], owner=ctx.user.identity)
    if ctx.action == "update" and "org" in (value.get("metadata") or {}):
        raise Auth.exceptions.HTTPException(status_code=403, detail="org cannot be changed")
    return {"org": ctx.user["org"]}


@auth.on.store
async def below_the_organisation(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> bool:
    """Items lie in namespaces that begin with the organisation."""
    if ctx.action in {"put", "delete"} and "write" not in ctx.permissions:
        return False
    value["namespace"] = (ctx.user["org"], *(value["namespace"] or ()))
    return True
