"""Structured logs: an event and its fields; a line for people, or JSON for machines."""

import logging
import re
import sys
from typing import Any, cast

# structlog takes rich along where somebody has installed it: a tenth of a second and 8 MB in each
# process, for tracebacks that we do not show.
HAS_RICH = "rich" in sys.modules
if not HAS_RICH:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if not HAS_RICH:
    del sys.modules["rich"]

SECRETS = (
    # A password in a URI, whose user may stay.
    (re.compile(r"(://[^:/@\s'\"]*:)[^@/\s'\"]+(?=@)"), r"\1***"),
    (re.compile(r"(?i)\b((?:bearer|basic) )[\w.~+/=-]{8,}"), r"\1***"),
    (
        re.compile(
            r"(?i)((?:x-api-key|authorization|cookie)['\"]?\s*[:=,]\s*['\"]?)[^\s'\",})]{4,}"
        ),
        r"\1***",
    ),
)
"""What looks like a credential, wherever in a line or a traceback; and what stays of it."""
HINTS = ("://", "bearer ", "basic ", "x-api-key", "authorization", "cookie")
"""Without one of them none of the patterns fits: a look for words is a tenth of their work."""
NO_WORD = re.compile(r"[ \t=\r\n\"']")
MARK = "_logger"
"""structlog's, on the records that it has made."""


def configure_logs(level: str, *, as_json: bool) -> None:
    """Route our own logs and the standard library's through one renderer to standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Without local variables, and with them whatever is secret there.
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor
    if as_json:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    elif sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    else:
        renderer = render_plain
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        LineFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
                redact,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These tell every connection at INFO; their warnings stay.
    for chatty in ("httpx", "alembic", "uvicorn.access", "dramatiq", "psycopg.pool"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


class LineFormatter(structlog.stdlib.ProcessorFormatter):
    """Renders our own lines from what `log.info` has made; those of others like the base class.

    The base copies each record twice, for handlers that we do not have.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Render one line."""
        if not hasattr(record, MARK):
            return super().format(record)
        _, *processors = self.processors
        line: Any = dict(cast(dict[str, Any], record.msg))
        for process in processors:
            line = process(None, record.levelname, line)
        return str(line)


def render_plain(_logger: Any, _name: str, event: structlog.typing.EventDict) -> str:
    """A line without colours, as structlog's own renderer has it, in a third of its time."""
    head = (
        f"{event.pop('timestamp')} [{event.pop('level'):9}] "
        f"{event.pop('event'):<30} [{event.pop('logger')}]"
    )
    traceback = event.pop("exception", None)
    line = " ".join([head, *(f"{name}={show(value)}" for name, value in sorted(event.items()))])
    return f"{line}\n{traceback}" if traceback else line


def show(value: Any) -> str:
    """A field's value: a word as it is, all else so that its end can be seen."""
    return value if isinstance(value, str) and not NO_WORD.search(value) else repr(value)


def redact(_logger: Any, _name: str, line: Any) -> Any:
    """Take credentials out of a rendered line: libraries quote what they could not use."""
    folded = line.casefold()
    if any(hint in folded for hint in HINTS):
        for pattern, replacement in SECRETS:
            line = pattern.sub(replacement, line)
    return line


def bind_fields(**fields: Any) -> None:
    """Have every line of this greenlet carry these fields, instead of those bound before."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**fields)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose calls take an event and fields: `log.info("run finished", run_id=...)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
