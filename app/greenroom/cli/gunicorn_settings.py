"""gunicorn's settings file, read by name: `gunicorn -c python:greenroom.cli.gunicorn_settings`."""

import resource
import tempfile
from pathlib import Path
from typing import Any

import greenroom
from greenroom.cli.environment import GUNICORN_GRACE_SECONDS, share_metrics
from greenroom.config import load_config
from greenroom.logs import configure_logs

_config = load_config()
configure_logs(_config.log_level, as_json=_config.log_json)

_host = f"[{_config.host}]" if ":" in _config.host else _config.host
bind = [f"{_host}:{_config.port}"]
limit_request_fields = 100
if _config.way_back_socket:
    # What the middleware of `http.app` lets by comes back here, with headers of ours added.
    bind.append(f"unix:{_config.way_back_socket}")
    limit_request_fields = 200
# Of that socket: only this user may connect.
umask = 0o177
workers = _config.web_processes
worker_class = "greenroom.cli.gunicorn_worker.StreamingWorker"
# Beyond the streams, room for short requests.
worker_connections = _config.max_streams + 100
keepalive = 75
graceful_timeout = GUNICORN_GRACE_SECONDS
# Not a limit for requests: a gevent worker reports every second unless its loop is blocked.
timeout = 60
# Each worker patches itself before it imports the application.
preload_app = False
reuse_port = False
accesslog = None
errorlog = "-"
logger_class = "greenroom.cli.gunicorn_logger.GunicornLogger"
limit_request_line = 8190
# gunicorn puts the working directory, which is the user's, in front of sys.path.
chdir = str(Path(greenroom.__file__).parents[1])
control_socket_disable = True
# On a disk a busy writer could delay the workers' signs of life.
if Path("/dev/shm").is_dir():  # noqa: S108  gunicorn opens it with mkstemp
    worker_tmp_dir = "/dev/shm"  # noqa: S108


_figures: tempfile.TemporaryDirectory[str] | None = None
if workers > 1:
    # Where the workers' counters lie, so that any of them can answer /metrics for all.
    _figures = tempfile.TemporaryDirectory(prefix="greenroom-metrics-")
    share_metrics(_figures.name)


def child_exit(_arbiter: Any, worker: Any) -> None:
    """Forget what only a living worker may report; its counts stay."""
    if _figures is not None:
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 (reads the dir)

        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_arbiter: Any) -> None:
    """Remove the counters."""
    if _figures is not None:
        _figures.cleanup()


def on_starting(_arbiter: Any) -> None:
    """Allow as many open sockets as the system lets us."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
