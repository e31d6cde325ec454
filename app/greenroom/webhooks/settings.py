"""The `webhooks` block of langgraph.json (langgraph-json.md, section 2.5)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from greenroom.config import Config, Project
from greenroom.errors import ConfigError

DEFAULT_ENV_PREFIX = "LG_WEBHOOK_"
HIGHEST_PORT = 65535
TEMPLATE = re.compile(r"\$\{\{\s*env\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 9110, 5.5, without obs-fold: a line break would begin a header of somebody else's making.
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
DOMAIN = re.compile(r"(\*\.)?[^\s*/:@]+")
OUR_HEADERS = frozenset(
    {
        *("host", "connection", "content-length", "content-type", "transfer-encoding"),
        *("greenroom-delivery", "greenroom-signature"),
    }
)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which addresses may be called. The defaults hold where there is no `webhooks` block."""

    require_https: bool = False
    """True once there is a block, unless it says otherwise."""
    allowed_domains: tuple[str, ...] = ()
    """Lower case; `*.example.com` means every name below example.com, not itself. Empty: any."""
    allowed_ports: tuple[int, ...] = ()
    """Empty: any."""
    max_url_length: int | None = None
    disable_loopback: bool = True
    """Also refuses paths of this server's own."""
    disable_private: bool = False
    """Our own key: refuses 10/8, 172.16/12, 192.168/16, 100.64/10 and fc00::/7, too."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process that sends webhooks must know."""

    rules: Rules = Rules()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with each delivery: names in lower case, templates filled in."""
    secret: str = field(default="", repr=False)
    """Signs deliveries; empty: they are not signed."""
    own_url: str = ""
    """What stands in front of a path of this server's own."""
    is_enabled: bool = True
    """False: nothing is sent (`http.disable_webhooks`)."""


def read_settings(config: Config) -> Settings:
    """Read and check everything.

    Raises:
        ConfigError: one line that names the key.
    """
    project = config.project
    # What we listen on everywhere is reached at home.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104
    place = f"[{host}]" if ":" in host else host
    return Settings(
        rules=read_rules(project),
        headers=_headers(_block(project), config.environment),
        secret=config.webhook_secret,
        own_url=f"http://{place}:{config.port}{config.mount_prefix}",
        is_enabled=not _flag(
            _table(project.raw.get("http"), "http"), "http", "disable_webhooks", default=False
        ),
    )


def read_rules(project: Project) -> Rules:
    """Read and check `webhooks.url` alone, which takes nothing from the environment.

    Raises:
        ConfigError: one line that names the key.
    """
    block = _block(project)
    url = _table(block.get("url"), "webhooks.url")
    has_block = project.raw.get("webhooks") is not None
    return Rules(
        require_https=_flag(url, "webhooks.url", "require_https", default=has_block),
        allowed_domains=_domains(url.get("allowed_domains")),
        allowed_ports=_ports(url.get("allowed_ports")),
        max_url_length=_length(url.get("max_url_length")),
        disable_loopback=_flag(url, "webhooks.url", "disable_loopback", default=True),
        disable_private=_flag(url, "webhooks.url", "disable_private", default=False),
    )


def _block(project: Project) -> dict[str, Any]:
    return _table(project.raw.get("webhooks"), "webhooks")


def _headers(block: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    prefix = block.get("env_prefix", DEFAULT_ENV_PREFIX)
    if not isinstance(prefix, str) or not prefix:
        raise _wrong("webhooks.env_prefix", "the beginning of the names that may be used", prefix)
    headers = {}
    for name, template in _table(block.get("headers"), "webhooks.headers").items():
        key = f"webhooks.headers.{name}"
        if not HEADER_NAME.fullmatch(name):
            raise ConfigError(f'langgraph.json: "{key}" is not a name that a header can have')
        if name.lower() in OUR_HEADERS:
            raise ConfigError(f'langgraph.json: "{key}" is set by the server: take it out')
        if not isinstance(template, str):
            raise _wrong(key, "a text", template)
        value = _fill(key, template, prefix, environment).strip()
        if not HEADER_VALUE.fullmatch(value):
            # Without the value: it may be a secret.
            raise ConfigError(
                f'langgraph.json: "{key}" holds what no header can: one line, latin-1'
            )
        headers[name.lower()] = value
    return headers


def _fill(key: str, template: str, prefix: str, environment: Mapping[str, str]) -> str:
    """Put variables of the environment into a header's template."""

    def look_up(found: re.Match[str]) -> str:
        name = found[1]
        if not name.startswith(prefix):
            raise ConfigError(
                f'langgraph.json: "{key}" names {name}: only variables that begin with {prefix} '
                'may be used (see "webhooks.env_prefix")'
            )
        if name not in environment:
            raise ConfigError(f'langgraph.json: "{key}" names {name}, which is not set')
        return environment[name]

    if "${{" in TEMPLATE.sub("", template):
        raise ConfigError(f'langgraph.json: "{key}" has a template other than ${{{{ env.NAME }}}}')
    return TEMPLATE.sub(look_up, template)


def _domains(value: Any) -> tuple[str, ...]:
    key = "webhooks.url.allowed_domains"
    names = [] if value is None else value
    if not isinstance(names, list) or not all(
        isinstance(name, str) and DOMAIN.fullmatch(name) for name in names
    ):
        raise _wrong(key, 'a list of names such as "example.com" or "*.example.com"', value)
    return tuple(name.lower().rstrip(".") for name in names)


def _ports(value: Any) -> tuple[int, ...]:
    ports = [] if value is None else value
    if not isinstance(ports, list) or not all(
        isinstance(port, int) and not isinstance(port, bool) and 0 < port <= HIGHEST_PORT
        for port in ports
    ):
        raise _wrong("webhooks.url.allowed_ports", f"a list of ports, 1 to {HIGHEST_PORT}", value)
    return tuple(ports)


def _length(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong("webhooks.url.max_url_length", "a whole number, 1 or more", value)
    return value


def _flag(table: Mapping[str, Any], key: str, name: str, *, default: bool) -> bool:
    value = table.get(name, default)
    if not isinstance(value, bool):
        raise _wrong(f"{key}.{name}", "true or false", value)
    return value


def _table(value: Any, key: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(key, "an object", value)
    return value


def _wrong(key: str, wanted: str, value: Any) -> ConfigError:
    return ConfigError(f'langgraph.json: "{key}" must be {wanted}, not {value!r}')
