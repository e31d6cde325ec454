"""Everything that the owner decides: the environment and langgraph.json, checked once, then frozen.

This is the only module that reads `os.environ`. Durations name their unit.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from greenroom.errors import ConfigError
from greenroom.jail import check_files

DATABASE_NAMES = ("DATABASE_URI", "POSTGRES_URI", "POSTGRES_URI_CUSTOM", "DATABASE_URL")
REDIS_NAMES = ("REDIS_URI", "REDIS_URI_CUSTOM", "REDIS_URL")
DEFAULT_CONFIG_FILE = "langgraph.json"
LARGEST_NICENESS = 19
ENV_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$")


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """One graph of langgraph.json: where it is, and what its owner says about it."""

    graph_id: str
    path: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """A langgraph.json. Paths inside it are relative to `directory`."""

    directory: Path
    graphs: Mapping[str, GraphEntry]
    dependencies: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of `env`, an inline map or a file; the process's own environment wins over it."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The whole file, for the blocks that other modules own (store, http, webhooks...)."""


@dataclass(frozen=True)
class Cors:
    """Which browsers' pages may call us (langgraph-json.md, http.cors)."""

    allow_origins: tuple[str, ...] = ("*",)
    allow_origin_regex: str | None = None
    allow_methods: tuple[str, ...] = ("*",)
    allow_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    expose_headers: tuple[str, ...] = ()
    max_age_seconds: int = 600


@dataclass(frozen=True)
class Config:
    """One process's settings. Made by `load_config`, never changed."""

    database_uri: str
    redis_uri: str
    project: Project
    redis_key_prefix: str = ""
    host: str = "127.0.0.1"
    port: int = 2024
    mount_prefix: str = ""
    cors: Cors = Cors()
    max_body_bytes: int = 100 * 1024 * 1024
    graphs_socket: str = ""
    """Path of the Unix socket on which the graphs process listens."""
    web_processes: int = 1
    max_streams: int = 10_000
    """Connections that one web process keeps open at once."""
    heartbeat_seconds: float = 5.0
    watchdog_seconds: float = 2.0
    """How often a web process asks Postgres whether the runs that it streams have ended."""
    slots: int = 10
    """Runs that one worker process executes at once."""
    worker_niceness: int = 10
    """How far workers stand back behind what answers requests: 0, as nobody, to 19."""
    run_timeout_seconds: float = 3600.0
    max_attempts: int = 3
    shutdown_grace_seconds: float = 180.0
    lease_seconds: float = 10.0
    sweep_seconds: float = 2.0
    resumable_ttl_seconds: float = 120.0
    database_pool_size: int = 10
    """Connections to Postgres that one process may hold, in each of its pools."""
    database_timeout_seconds: float = 30.0
    """How long one statement may take, and Postgres stay silent."""
    history_cache_bytes: int = 8 * 1024 * 1024
    """Of checkpoints as they were shown, which the graphs process remembers; 0: none."""
    api_keys: str = field(default="", repr=False)
    """Who may call, of owners without an auth handler; see greenroom.auth.settings."""
    auth_default: str = "ALLOW"
    """What becomes of a request of a known caller that no handler covers: ALLOW or DENY."""
    auth_timeout_seconds: float = 10.0
    """How long one of the owner's auth handlers may take."""
    encryption_key: str = field(default="", repr=False)
    """Encrypts what is stored; empty: nothing is."""
    encrypted_members: frozenset[str] = frozenset()
    """Names of members of metadata whose values are encrypted; needs a key."""
    old_encryption_keys: tuple[str, ...] = field(default=(), repr=False)
    """Of data that were written before the key was changed."""
    rate_limit: str = ""
    """Requests of one caller, like `100/minute`; empty: any number."""
    webhook_secret: str = field(default="", repr=False)
    """Signs what is sent to webhooks; empty: they are not signed."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Every variable, for the templates of langgraph.json, which may name some of them."""
    log_level: str = "INFO"
    log_json: bool = False

    @property
    def renew_seconds(self) -> float:
        """How often a worker renews its leases: three chances before one runs out."""
        return self.lease_seconds / 3

    @property
    def custom_socket(self) -> str:
        """Path of the Unix socket on which the graphs process serves `http.app`."""
        return f"{self.graphs_socket}.app"

    @property
    def way_back_socket(self) -> str:
        """Path of the web's Unix socket, where what middleware of `http.app` lets by comes back.

        Empty where there is no such application.
        """
        http = self.project.raw.get("http") or {}
        return f"{self.graphs_socket}.web" if self.graphs_socket and http.get("app") else ""


def load_config(
    config_file: str | Path | None = None, environment: Mapping[str, str] | None = None
) -> Config:
    """Read langgraph.json and the environment.

    Args:
        config_file: langgraph.json; None takes GREENROOM_CONFIG, else the working directory's.
        environment: None takes the process's own.
    Raises:
        ConfigError: one line that names the setting or key, and what to do.
    """
    outer = os.environ if environment is None else environment
    project = load_project(
        Path(config_file or outer.get("GREENROOM_CONFIG", DEFAULT_CONFIG_FILE)), outer
    )
    values = {**project.environment, **outer}
    http = project.raw.get("http") or {}
    read = _Reader(values)
    return Config(
        database_uri=_database_uri(read.first(DATABASE_NAMES)),
        redis_uri=_redis_uri(read.first(REDIS_NAMES)),
        project=project,
        redis_key_prefix=read.text("REDIS_KEY_PREFIX", ""),
        host=read.text("HOST", "127.0.0.1"),
        port=read.integer("PORT", 2024, 1, 65535),
        mount_prefix=_mount_prefix(read.text("MOUNT_PREFIX", http.get("mount_prefix") or "")),
        cors=_cors(http.get("cors") or {}, read),
        max_body_bytes=read.integer("HTTP_MAX_REQUEST_BODY_BYTES", Config.max_body_bytes, 1),
        graphs_socket=read.text("GREENROOM_GRAPHS_SOCKET", ""),
        web_processes=read.integer("WEB_CONCURRENCY", Config.web_processes, 1),
        max_streams=read.integer("GREENROOM_MAX_STREAMS", Config.max_streams, 1),
        heartbeat_seconds=read.number("GREENROOM_HEARTBEAT_SECONDS", Config.heartbeat_seconds),
        watchdog_seconds=read.number("GREENROOM_WATCHDOG_SECONDS", Config.watchdog_seconds),
        slots=read.integer("N_JOBS_PER_WORKER", Config.slots, 1),
        worker_niceness=read.integer(
            "GREENROOM_WORKER_NICENESS", Config.worker_niceness, 0, LARGEST_NICENESS
        ),
        run_timeout_seconds=read.number("BG_JOB_TIMEOUT_SECS", Config.run_timeout_seconds),
        max_attempts=read.integer("BG_JOB_MAX_RETRIES", Config.max_attempts, 1),
        shutdown_grace_seconds=read.number(
            "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS", Config.shutdown_grace_seconds, 0
        ),
        lease_seconds=read.number("GREENROOM_LEASE_SECONDS", Config.lease_seconds, 1),
        sweep_seconds=read.number("GREENROOM_SWEEP_SECONDS", Config.sweep_seconds, 0.1),
        resumable_ttl_seconds=read.number(
            "RESUMABLE_STREAM_TTL_SECONDS", Config.resumable_ttl_seconds
        ),
        database_pool_size=read.integer(
            "LANGGRAPH_POSTGRES_POOL_MAX_SIZE", Config.database_pool_size, 1
        ),
        database_timeout_seconds=read.number(
            "GREENROOM_DATABASE_TIMEOUT_SECONDS", Config.database_timeout_seconds, 1
        ),
        history_cache_bytes=read.integer(
            "GREENROOM_HISTORY_CACHE_BYTES", Config.history_cache_bytes, 0
        ),
        api_keys=read.text("GREENROOM_API_KEYS", ""),
        auth_default=read.choice("GREENROOM_AUTH_DEFAULT", Config.auth_default, ("ALLOW", "DENY")),
        auth_timeout_seconds=read.number(
            "GREENROOM_AUTH_TIMEOUT_SECONDS", Config.auth_timeout_seconds
        ),
        encryption_key=_aes_key("LANGGRAPH_AES_KEY", read.text("LANGGRAPH_AES_KEY", "")),
        encrypted_members=_encrypted_members(
            read.text("LANGGRAPH_AES_JSON_KEYS", ""),
            has_key=bool(read.text("LANGGRAPH_AES_KEY", "") or project.raw.get("encryption")),
        ),
        old_encryption_keys=tuple(
            _aes_key("GREENROOM_AES_OLD_KEYS", each.strip())
            for each in read.text("GREENROOM_AES_OLD_KEYS", "").split(",")
            if each.strip()
        ),
        rate_limit=read.text("GREENROOM_RATE_LIMIT", ""),
        webhook_secret=read.text("GREENROOM_WEBHOOK_SECRET", ""),
        environment=values,
        log_level=read.choice("LOG_LEVEL", Config.log_level, LOG_LEVELS),
        log_json=read.boolean("LOG_JSON", default=False),
    )


AES_KEY_BYTES = (16, 24, 32)
OUR_MEMBERS = frozenset(
    {
        *("assistant_id", "created_by", "graph_id", "run_id", "thread_id"),
        *("counters_since_delta_snapshot", "delta_writes_versioned", "parents", "source", "step"),
    }
)
"""Of metadata: what statements of ours and langgraph's look into."""
BAKED_BLOCKS = ("auth", "checkpointer", "encryption", "http", "store", "webhooks")
"""Blocks of langgraph.json that images carry in the environment, as LANGGRAPH_AUTH and so on."""
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def load_project(path: Path, environment: Mapping[str, str]) -> Project:
    """Read langgraph.json, or LANGSERVE_GRAPHS where an image has baked the graphs in.

    Raises:
        ConfigError: the file is missing, is not JSON, a key in it has the wrong form, or names a
            file that lies elsewhere.
    """
    baked = environment.get("LANGSERVE_GRAPHS")
    if path.is_file():
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
    elif baked:
        raw = {}
    else:
        raise ConfigError(
            f"{path} does not exist: pass -c path/to/langgraph.json or run where one lies"
        )
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    named_by_file = dict(raw)
    if baked:
        raw["graphs"] = _json_variable("LANGSERVE_GRAPHS", baked)
        named_by_file.pop("graphs", None)
    for block in BAKED_BLOCKS:
        name = f"LANGGRAPH_{block.upper()}"
        if text := environment.get(name):
            raw[block] = _json_variable(name, text)
            named_by_file.pop(block, None)
    directory = path.resolve().parent
    # Not `env` of the file itself: it could give leave to what it names.
    check_files(named_by_file, directory, environment.get("GREENROOM_ALLOWED_PATHS", ""), path)
    return Project(
        directory=directory,
        graphs=_graphs(raw.get("graphs"), path),
        dependencies=_dependencies(raw.get("dependencies", []), path),
        environment=_project_environment(raw.get("env") or {}, directory, path),
        raw=raw,
    )


def _json_variable(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not JSON: {error}") from error


def _graphs(graphs: Any, path: Path) -> dict[str, GraphEntry]:
    if not isinstance(graphs, dict) or not graphs:
        raise ConfigError(f'{path}: "graphs" must map at least one graph id to "./file.py:graph"')
    return {graph_id: _graph(graph_id, entry, path) for graph_id, entry in graphs.items()}


def _graph(graph_id: str, entry: Any, path: Path) -> GraphEntry:
    location, description = entry, None
    if isinstance(entry, dict):
        location, description = entry.get("path"), entry.get("description")
    if not isinstance(location, str) or not isinstance(description, str | None):
        raise ConfigError(
            f'{path}: graph "{graph_id}" must be "./file.py:graph" or '
            '{"path": "./file.py:graph", "description": "..."}'
        )
    module, _, attribute = location.rpartition(":")
    if not module or not attribute or "/" in attribute:
        raise ConfigError(
            f'{path}: graph "{graph_id}" has the path {location!r} without a variable: '
            'write "./file.py:graph"'
        )
    return GraphEntry(graph_id, location, description)


def _dependencies(dependencies: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(dependencies, list) or not all(isinstance(d, str) for d in dependencies):
        raise ConfigError(f'{path}: "dependencies" must be a list of strings')
    return tuple(dependencies)


def _project_environment(env: Any, directory: Path, path: Path) -> dict[str, str]:
    if isinstance(env, dict):
        return {str(name): str(value) for name, value in env.items()}
    if not isinstance(env, str):
        raise ConfigError(f'{path}: "env" must be a map or the path of a KEY=VALUE file')
    file = directory / env
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f'{path}: "env" names {file}, which cannot be read') from error
    return dict(pair for line in lines if (pair := _env_pair(line)))


def _env_pair(line: str) -> tuple[str, str] | None:
    """Read one KEY=VALUE line; None for a comment or an empty line."""
    found = ENV_LINE.match(line)
    if not found:
        return None
    name, value = found.groups()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return name, value[1:-1]
    return name, value.split(" #", 1)[0].rstrip()


def _database_uri(uri: str | None) -> str:
    if not uri:
        raise ConfigError(
            "DATABASE_URI is not set: point it at Postgres "
            "(postgresql://user:password@host:5432/name), or use `greenroom dev`"
        )
    if urlsplit(uri).scheme.partition("+")[0] not in {"postgres", "postgresql"}:
        raise ConfigError(
            f"DATABASE_URI must begin with postgresql://, not {uri.split(':', 1)[0]!r}"
        )
    return "postgresql://" + uri.split("://", 1)[-1]


def _redis_uri(uri: str | None) -> str:
    if not uri:
        raise ConfigError(
            "REDIS_URI is not set: point it at Redis or Valkey (redis://host:6379/0), "
            "or use `greenroom dev`"
        )
    if urlsplit(uri).scheme not in {"redis", "rediss", "unix"}:
        raise ConfigError(f"REDIS_URI must begin with redis://, not {uri.split(':', 1)[0]!r}")
    return uri


def without_password(uri: str) -> str:
    """Make a URI fit for a log line."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def _aes_key(name: str, key: str) -> str:
    if key and len(key.encode()) not in AES_KEY_BYTES:
        raise ConfigError(f"{name}: a key must have 16, 24 or 32 bytes, not {len(key.encode())}")
    return key


def _encrypted_members(listed: str, *, has_key: bool) -> frozenset[str]:
    setting = "LANGGRAPH_AES_JSON_KEYS"
    names = frozenset(each.strip() for each in listed.split(",") if each.strip())
    if names and not has_key:
        raise ConfigError(f"{setting} needs LANGGRAPH_AES_KEY: without it nothing is encrypted")
    if ours := sorted(names & OUR_MEMBERS):
        raise ConfigError(f"{setting}: {', '.join(ours)} cannot be encrypted, the server needs it")
    return names


def _mount_prefix(prefix: str) -> str:
    if prefix and not prefix.startswith("/"):
        raise ConfigError(f"MOUNT_PREFIX must begin with a slash, not {prefix!r}")
    return prefix.rstrip("/")


def _cors(block: Mapping[str, Any], read: "_Reader") -> Cors:
    """Merge `http.cors` with CORS_ALLOW_ORIGINS, which wins."""

    def words(key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = block.get(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
            raise ConfigError(f'langgraph.json: "http.cors.{key}" must be a list of strings')
        return tuple(value)

    origins = words("allow_origins", Cors.allow_origins)
    if listed := read.text("CORS_ALLOW_ORIGINS", ""):
        origins = tuple(origin.strip() for origin in listed.split(",") if origin.strip())
    return Cors(
        allow_origins=origins,
        allow_origin_regex=block.get("allow_origin_regex"),
        allow_methods=words("allow_methods", Cors.allow_methods),
        allow_headers=words("allow_headers", Cors.allow_headers),
        allow_credentials=bool(block.get("allow_credentials", False)),
        expose_headers=words("expose_headers", ()),
        max_age_seconds=int(block.get("max_age", Cors.max_age_seconds)),
    )


class _Reader:
    """Typed look-ups that blame the variable by name."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def first(self, names: tuple[str, ...]) -> str | None:
        return next((self.values[name] for name in names if self.values.get(name)), None)

    def text(self, name: str, default: str) -> str:
        return self.values.get(name) or default

    def integer(self, name: str, default: int, low: int, high: int | None = None) -> int:
        number = self.number(name, default, low)
        if number != int(number) or (high is not None and number > high):
            limit = f" to {high}" if high is not None else " or more"
            raise ConfigError(f"{name} must be a whole number, {low}{limit}, not {number:g}")
        return int(number)

    def number(self, name: str, default: float, low: float = 0.05) -> float:
        text = self.values.get(name)
        if not text:
            return default
        try:
            number = float(text)
        except ValueError as error:
            raise ConfigError(f"{name} must be a number, not {text!r}") from error
        if not low <= number < float("inf"):
            raise ConfigError(f"{name} must be {low:g} or more, not {text}")
        return number

    def boolean(self, name: str, *, default: bool) -> bool:
        text = self.values.get(name, "").lower()
        if text in {"", "0", "1", "true", "false", "yes", "no", "on", "off"}:
            return text in {"1", "true", "yes", "on"} if text else default
        raise ConfigError(f"{name} must be true or false, not {text!r}")

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        text = self.text(name, default).upper()
        if text not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {text}")
        return text


def export_project_environment(project: Project) -> None:
    """Give the user's code the `env` of langgraph.json; what the process already has wins."""
    for name, value in project.environment.items():
        os.environ.setdefault(name, value)


def prefer_strict_msgpack() -> None:
    """Have langgraph build no object from a checkpoint but those that a graph's schemas name.

    To be called before langgraph is imported. An owner who has set the variable is obeyed.
    """
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")


def are_metrics_shared() -> bool:
    """Whether several processes of this host count together (prometheus_client's own variable)."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ
