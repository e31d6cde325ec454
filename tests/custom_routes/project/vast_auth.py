"""Callers about whom there is much to tell."""

from langgraph_sdk import Auth

auth = Auth()


@auth.authenticate
async def authenticate(authorization: str | None) -> Auth.types.MinimalUserDict:
    """The name in the token, and more than a server takes in one header."""
    if authorization is None:
        raise Auth.exceptions.HTTPException(401)
    name = authorization.removeprefix("Bearer ")
    return {"identity": name, "notes": "ü,  " * 20_000}  # type: ignore[typeddict-unknown-key]
