"""Handlers as an owner writes them, and, as HANDLERS says, some that go wrong."""

import asyncio
import base64
import json
import os
import time
from typing import Any

from cryptography.fernet import Fernet
from langgraph_sdk import DecryptResult, Encryption, EncryptionContext

encryption = Encryption()
keys = {name: name.encode().ljust(32, b".") for name in ("old", "new")}
kind = os.environ.get("HANDLERS", "")
calls = 0
if "CALLS" in os.environ:
    calls = os.open(os.environ["CALLS"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)


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
    if kind == "spoils":
        return DecryptResult(plain, plain)
    return DecryptResult(plain, await encrypt(ctx, plain))


def is_secret(ctx: EncryptionContext, name: str, value: Any) -> bool:
    """By its name, by what it holds, or because of whose metadata it is of."""
    return name == "note" or "card" in str(value) or (name, ctx.model) == ("pet", "thread")


async def encrypt_json(ctx: EncryptionContext, data: dict[str, Any]) -> dict[str, Any]:
    """Encrypt values; `say` tells what to do else."""
    assert ctx.field == "metadata"
    if calls:
        os.write(calls, f"{ctx.model} {sorted(data)}\n".encode())
    match data.get("say"):
        case "raise":
            raise RuntimeError("secret detail of the owner's code")
        case "hang":
            await asyncio.sleep(60)
        case "block":
            time.sleep(60)  # noqa: ASYNC251 (what owners do)
        case "rename":
            return {"all": "encrypted"}
    for name, value in data.items():
        if is_secret(ctx, name, value) or kind == "json-loses":
            token = cipher("old").encrypt(json.dumps(value).encode())
            data[name] = f"encrypted:{token.decode()}"
    return {"all": "encrypted"} if kind == "json-renames" else data


async def decrypt_json(ctx: EncryptionContext, data: dict[str, Any]) -> dict[str, Any]:
    """Decrypt nothing: only `json-loses` encrypts what it is asked about."""
    return data


if kind.startswith("json"):
    encryption.encrypt.json(encrypt_json)
if kind.startswith("json") and kind != "json-half":
    encryption.decrypt.json(decrypt_json)

if kind == "context":

    @encryption.context
    async def context(user: Any, ctx: EncryptionContext) -> dict[str, Any]:
        """Never called."""
        return {}
