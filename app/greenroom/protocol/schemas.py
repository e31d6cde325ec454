"""Subscriptions and commands on the wire (streaming-v2.md, 1.1 and 3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from greenroom.contract.fields import Maybe, Object, WireModel, show_words
from greenroom.errors import BadRequest
from greenroom.protocol.errors import InvalidArgument
from greenroom.streaming.spans import CHANNELS, Filter, is_channel

NO_CHANNELS = "channels is required and must be a non-empty array"
MALFORMED = "Protocol commands must include an integer id and string method."


class EventStreamRequest(WireModel):
    """Which events of a thread; `custom:<name>` selects custom events of one name."""

    channels: Annotated[list[Annotated[str, show_words(*CHANNELS)]], Field(min_length=1)]
    namespaces: Maybe[list[list[str]]] = None
    """Only events at or below one of these; a node's name stands for each of its calls."""
    depth: Maybe[Annotated[int, Field(ge=0)]] = None
    """How many levels below."""
    since: Maybe[Annotated[int, Field(ge=0)]] = None
    """Only events with a higher `seq`."""


class CommandRequest(WireModel):
    """One command."""

    id: int
    method: str
    params: Object = Field(default_factory=dict)


class CommandAnswer(WireModel):
    """What became of a command: a result, or a code and a sentence."""

    type: Literal["success", "error"]
    id: int | None
    result: Object | None = None
    error: str | None = None
    message: str | None = None
    meta: Object | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A well-formed command."""

    command_id: int
    method: str
    params: dict[str, Any]


def read_filter(body: Any) -> Filter:
    """Read what a stream wants to see.

    Raises:
        BadRequest: no channels, or unknown ones. The rest is forgiven.
    """
    given = body if isinstance(body, Mapping) else {}
    channels = given.get("channels")
    if not isinstance(channels, list) or not channels:
        raise BadRequest(NO_CHANNELS)
    if unknown := [str(name) for name in channels if not is_channel(name)]:
        raise BadRequest(
            f"channels contains unsupported entries: {', '.join(unknown)}. "
            f"Allowed: {', '.join(CHANNELS)}, custom:<name>"
        )
    return Filter(channels, read_namespaces(given.get("namespaces")), read_count(given, "depth"))


def read_namespaces(given: Any) -> list[list[str]] | None:
    """Lists of segments; None, that is all, for anything else."""
    if not isinstance(given, list):
        return None
    return [
        one
        for one in given
        if isinstance(one, list) and all(isinstance(segment, str) for segment in one)
    ]


def read_count(given: Mapping[str, Any], name: str) -> int | None:
    """A number that counts from 0; None for anything else."""
    value = given.get(name)
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None


def read_command(given: Any) -> Command:
    """Read a command.

    Raises:
        InvalidArgument: the envelope is malformed, or `params` is no object.
    """
    if not is_command(given):
        raise InvalidArgument(MALFORMED)
    params = given.get("params")
    if not isinstance(params, dict | None):
        raise InvalidArgument("params must be an object.")
    return Command(given["id"], given["method"], params or {})


def is_command(given: Any) -> bool:
    """Whether it has the envelope of one."""
    if not isinstance(given, dict):
        return False
    command_id = given.get("id")
    has_id = isinstance(command_id, int) and not isinstance(command_id, bool)
    return has_id and isinstance(given.get("method"), str)


def success(command_id: int, result: Mapping[str, Any], applied_seq: int = 0) -> dict[str, Any]:
    """The answer to a command that was carried out.

    Args:
        applied_seq: the highest number that this connection has sent; clients go on after it.
    """
    meta = {"applied_through_seq": applied_seq}
    return {"type": "success", "id": command_id, "result": result, "meta": meta}


def failure(command_id: Any, code: str, message: str) -> dict[str, Any]:
    """The answer to a command that was not."""
    shown = command_id if isinstance(command_id, int) else None
    return {"type": "error", "id": shown, "error": code, "message": message}
