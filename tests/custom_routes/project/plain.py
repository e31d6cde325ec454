"""An application without any framework, whose routes nobody can know."""

from typing import Any


async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Answer everything below /plain, and refuse the rest."""
    assert scope["type"] == "http"
    is_ours = scope["path"].startswith("/plain")
    body = b"plain" if is_ours else b"nothing here"
    await send({"type": "http.response.start", "status": 200 if is_ours else 404, "headers": []})
    await send({"type": "http.response.body", "body": body})
