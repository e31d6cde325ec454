"""What views work with: one set per process, hung on the Flask application."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import current_app

from greenroom.assistants.known import KnownAssistants
from greenroom.config import Config
from greenroom.contract.guard import Guard
from greenroom.contract.http_settings import HeaderRules
from greenroom.database.engine import Database
from greenroom.graphs.client import GraphsClient
from greenroom.runs.priority import Priorities
from greenroom.signals.sender import Signals
from greenroom.streaming.relay import Relay

if TYPE_CHECKING:
    # Loaded only where there is a limit.
    from greenroom.contract.rate import RateLimit


@dataclass(frozen=True, slots=True)
class Services:
    """The process's connections to everything outside it."""

    config: Config
    database: Database
    assistants: KnownAssistants
    graphs: GraphsClient
    signals: Signals
    relay: Relay
    guard: Guard | None = None
    """None: everybody may do everything."""
    rate: "RateLimit | None" = None
    """How many requests a caller may make; None: any number."""
    priorities: Priorities | None = None
    """Who is asked about the order of runs; None: nobody."""
    headers: HeaderRules | None = None
    """Which headers of a request its run learns of; None: none."""


def services() -> Services:
    """The set of the application that handles this request."""
    found: Services = current_app.extensions["greenroom"]
    return found
