"""Callers who say in the body who they are."""

from typing import Any

from langgraph_sdk import Auth

auth = Auth()


@auth.authenticate
async def authenticate(body: Any) -> str:
    """The name in the body."""
    return str(body["name"]) if isinstance(body, dict) else "somebody"
