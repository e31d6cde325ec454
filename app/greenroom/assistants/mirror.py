"""`config.configurable` and `context` say the same thing twice (http.md, config <-> context)."""

from collections.abc import Mapping
from typing import Any

from greenroom.errors import BadRequest, InvalidRequest

Pair = tuple[dict[str, Any], dict[str, Any]]


def mirror(config: Mapping[str, Any] | None, context: Mapping[str, Any] | None) -> Pair:
    """Copy the one that is given over the one that is not.

    Returns:
        The config and the context to keep: new objects, equal where both speak. A config without
        either stays without `configurable`.
    Raises:
        BadRequest: both are non-empty.
        InvalidRequest: `configurable` is not an object.
    """
    kept = dict(config or {})
    configurable = kept.get("configurable") or {}
    if not isinstance(configurable, Mapping):
        raise InvalidRequest("config.configurable must be an object")
    if configurable and context:
        raise BadRequest(
            "Cannot specify both configurable and context. Give context alone: "
            "config.configurable takes its content."
        )
    if context:
        kept["configurable"] = dict(context)
    return kept, dict(context or configurable)


def mirror_change(
    stored_config: Mapping[str, Any],
    stored_context: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    context: Mapping[str, Any] | None,
) -> Pair:
    """Replace what a change names, and let the other half follow. None leaves a half unnamed.

    Raises: as `mirror`.
    """
    if config is None and context is None:
        return dict(stored_config), dict(stored_context)
    if config is None:
        rest = {key: value for key, value in stored_config.items() if key != "configurable"}
        return mirror(rest, context)
    return mirror(config, context)
