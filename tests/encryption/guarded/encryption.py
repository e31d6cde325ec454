"""Handlers as an owner writes them, and, as HANDLERS says, some that go wrong."""

import asyncio
import base64
import os
from typing import Any

from cryptography.fernet import Fernet
from langgraph_sdk import DecryptResult, Encryption, EncryptionContext

encryption = Encryption()
keys = {name: name.encode().ljust(32, b".") for name in ("old", "new")}
kind = os.environ.get("HANDLERS", "")


def cipher(name: str) -> Fernet:
    """With the key of that name."""
    return Fernet(base64.urlsafe_b64encode(keys[name]))


@encryption.encrypt.blob
async def encrypt(ctx: EncryptionContext, data: bytes) -> bytes:
    """Encrypt with the key that OWNERS_KEY names."""
    match kind:
        case "raises":
            raise RuntimeError("secret detail of the owner's code")
        case "hangs":
            await asyncio.sleep(60)
        case "exits":
            os._exit(3)
        case "clear":
            return b"clear:" + data
    name = os.environ.get("OWNERS_KEY", "old")
    return name.encode() + b":" + cipher(name).encrypt(data)


@encryption.decrypt.blob
async def decrypt(ctx: EncryptionContext, data: bytes) -> bytes | DecryptResult[bytes]:
    """Decrypt; what has an older key is given back under the new one."""
    assert (ctx.model, ctx.field) == ("data_key", "key")
    if kind == "loses":
        return b"x" * 32
    name, _, token = data.partition(b":")
    wanted = os.environ.get("OWNERS_KEY", "old")
    plain = cipher(name.decode()).decrypt(token)
    if name.decode() == wanted:
        return plain
    if kind == "forgot":
        raise PermissionError("the older key is gone")
    return DecryptResult(plain, await encrypt(ctx, plain))


if kind == "json":

    @encryption.encrypt.json
    async def encrypt_json(ctx: EncryptionContext, data: dict[str, Any]) -> dict[str, Any]:
        """Never called."""
        return data


if kind == "context":

    @encryption.context
    async def context(user: Any, ctx: EncryptionContext) -> dict[str, Any]:
        """Never called."""
        return {}
