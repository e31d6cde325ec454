"""The web process's application: everything is made here, and nothing below imports this."""

import threading
from typing import TYPE_CHECKING

from flask import Flask
from redis import Redis

from greenroom.assistants.known import KnownAssistants
from greenroom.assistants.service import ensure_system_assistants
from greenroom.assistants.views import assistants
from greenroom.auth import settings as auth_settings
from greenroom.config import Config, load_config
from greenroom.contract import (
    api,
    compression,
    cors,
    failures,
    http_settings,
    measure,
    protection,
    request_log,
)
from greenroom.contract.guard import Guard, list_uncovered
from greenroom.contract.services import Services
from greenroom.crons.views import crons
from greenroom.database.deployment import find_deployment
from greenroom.database.engine import Database
from greenroom.errors import AppError
from greenroom.graphs.client import GraphsClient
from greenroom.keyring import Ask, install_keys
from greenroom.logs import configure_logs, get_logger
from greenroom.protocol.views import protocol
from greenroom.runs import priority
from greenroom.runs.join_views import joins
from greenroom.runs.views import runs
from greenroom.signals.connection import connect
from greenroom.signals.gathering import GatheringSignals
from greenroom.signals.keys import Keys
from greenroom.store.views import store
from greenroom.streaming.relay import Relay
from greenroom.system.views import health, system
from greenroom.threads.state_views import states
from greenroom.threads.views import threads
from greenroom.webhooks.settings import read_settings
from greenroom.webhooks.views import webhooks

if TYPE_CHECKING:
    from greenroom.contract.rate import RateLimit

log = get_logger(__name__)

PUBLIC = frozenset(
    {"system.get_openapi", "system.get_docs", "system.get_docs_script", "system.get_docs_asset"}
)
"""Views without a contract: the description of the API, the same for everybody."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
MISSED_HEARTBEATS = 6
"""A client that takes nothing for so many is given up."""


def create_app(config: Config | None = None) -> Flask:
    """Build the application of one web process, after its fork.

    Raises:
        ConfigError: the settings are wrong, or the database has not been migrated.
    """
    config = config or load_config()
    configure_logs(config.log_level, as_json=config.log_json)
    install_keys(config, load_ask)
    app = api.Api(__name__, static_folder=None)
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_bytes
    app.extensions["greenroom"] = build_services(config)
    http = http_settings.read_settings(config.project)
    failures.install(app)
    if http.logged is not None:
        request_log.install(app, http.logged)
    cors.install(app, config.cors)
    compression.install(app)
    protection.install(app)
    measure.install(app)
    if config.rate_limit:
        from greenroom.contract import rate  # noqa: PLC0415 (its library is for those who use it)

        rate.install(app)
    if http.app is not None:
        from greenroom.custom_routes import views  # noqa: PLC0415 (as above)

        views.install(app, config, http)
    resources = (assistants, threads, states, runs, joins, protocol, crons, webhooks, store, system)
    for blueprint in resources:
        if blueprint.name in http.disabled:
            if blueprint is system:
                app.register_blueprint(health, url_prefix=config.mount_prefix or None)
            continue
        app.register_blueprint(blueprint, url_prefix=config.mount_prefix or None)
    require_contracts(app)
    if (guard := app.extensions["greenroom"].guard) is not None:
        threading.Thread(target=tell_uncovered, args=(app, guard), daemon=True).start()
    return app


def load_ask(config: Config) -> Ask:
    """What tells which members of metadata are secret: the process that has the owner's code."""
    return GraphsClient(config.graphs_socket).choose_members


def require_contracts(app: Flask) -> None:
    """Refuse to serve a route that does not say who may use it.

    Raises:
        RuntimeError: a view neither wears `endpoint` nor is known to be for everybody.
    """
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if not hasattr(view, "contract") and rule.endpoint not in PUBLIC:
            raise RuntimeError(f"{rule.rule} does not say who may use it: see contract.endpoint")


def tell_uncovered(app: Flask, guard: Guard) -> None:
    """Warn of what is open to every known caller because no handler covers it."""
    if guard.has_keys:
        return
    try:
        uncovered = list_uncovered(app, guard)
    except AppError as error:
        log.warning("auth handlers not asked yet", error=str(error))
        return
    if uncovered:
        log.warning(
            "no auth handler covers these routes",
            routes=uncovered,
            they_are="refused" if guard.denies_unhandled else "open to every authenticated caller",
        )


def build_services(config: Config) -> Services:
    """Open what the views work with."""
    # A wrong block shall be told of at the start, not by the first run with a webhook.
    read_settings(config)
    database = Database(
        config, pool_size=config.database_pool_size, application_name="greenroom web"
    )
    keys = Keys(config.redis_key_prefix, find_deployment(database))
    client = connect(config.redis_uri)
    ensure_system_assistants(database, config.project)
    graphs = GraphsClient(config.graphs_socket)
    return Services(
        config=config,
        database=database,
        assistants=KnownAssistants(database),
        graphs=graphs,
        guard=build_guard(config, graphs),
        priorities=priority.make_priorities(config.project, database, graphs.assign_priority),
        rate=build_rate_limit(config, client, keys),
        headers=http_settings.read_settings(config.project).headers,
        signals=GatheringSignals(client, keys),
        relay=Relay(
            connect(config.redis_uri),
            keys,
            database,
            watchdog_seconds=config.watchdog_seconds,
            heartbeat_seconds=config.heartbeat_seconds,
            patience_seconds=config.heartbeat_seconds * MISSED_HEARTBEATS,
        ),
    )


def build_guard(config: Config, graphs: GraphsClient) -> Guard | None:
    """Who looks at callers; None where nobody is asked who they are."""
    settings = auth_settings.read_settings(config)
    if settings.path is not None or settings.keys:
        return Guard(settings, graphs)
    if config.host not in LOOPBACK:
        log.warning(
            "everybody who reaches this address may do everything",
            host=config.host,
            remedy="set GREENROOM_API_KEYS, or auth.path in langgraph.json",
        )
    return None


def build_rate_limit(config: Config, client: Redis, keys: Keys) -> "RateLimit | None":
    """What counts requests; None where nothing is limited."""
    if not config.rate_limit:
        return None
    from greenroom.contract.rate import RateLimit  # noqa: PLC0415 (as above)

    return RateLimit(config.rate_limit, config.redis_uri, client, keys)
