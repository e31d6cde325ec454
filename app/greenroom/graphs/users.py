"""The caller as users' code meets it: a mapping whose members are attributes, too."""

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig

USER = "langgraph_auth_user"
"""The key of `configurable` under which graphs find the caller; None without authentication."""


class AuthUser(dict[str, Any]):
    """What the authenticate handler gave, as the SDK's BaseUser."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def with_user(config: RunnableConfig) -> RunnableConfig:
    """A config whose caller, which came as JSON, is an AuthUser."""
    configurable = config.get("configurable")
    user = configurable.get(USER) if isinstance(configurable, Mapping) else None
    if not isinstance(user, Mapping):
        return config
    return {**config, "configurable": {**(configurable or {}), USER: AuthUser(user)}}


def user_of(config: RunnableConfig) -> AuthUser | None:
    """The caller in a config; None without authentication."""
    user = (config.get("configurable") or {}).get(USER)
    return user if isinstance(user, AuthUser) else None
