"""gunicorn's own lines, through our renderer."""

from typing import Any

from gunicorn.glogging import Logger


class GunicornLogger(Logger):
    """Hands the error log to the root logger, which `configure_logs` has set up."""

    def setup(self, cfg: Any) -> None:
        """Undo gunicorn's own handler."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
