"""gunicorn's gevent worker, made to end streams and idle connections when it is told to stop."""

import signal
import socket
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar, Self

import gevent
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.workers.ggevent import GeventWorker

from greenroom.cli.gunicorn_response import PromptResponse
from greenroom.cli.processes import die_with_parent
from greenroom.collector import calm_collector, no_collector
from greenroom.streaming import shutdown
from greenroom.streaming.outlet import RESPONSE

KEPT_PEERS = 1000


def settle(config: Config) -> None:
    """Have gunicorn find out once what it would find out anew for each request.

    Every setting is a plain attribute, of which it looks fifteen up; all requests have one stream
    for `wsgi.errors`; and whether a proxy is trusted is known by its address.
    """
    vars(config).update({name: setting.get() for name, setting in config.settings.items()})
    errors = wsgi.WSGIErrorsWrapper(config)
    wsgi.WSGIErrorsWrapper = lambda _config: errors  # type: ignore[assignment, misc]
    RequestParser.mesg_class = PromptRequest


class PromptRequest(Request):
    """A request whose peer's address is read as a number once, not with each request."""

    trusted: ClassVar[dict[str, bool]] = {}

    def _peer_is_trusted_proxy(self) -> bool:
        if not isinstance(self.peer_addr, tuple):
            return bool(super()._peer_is_trusted_proxy())  # type: ignore[misc] # (the stubs lack it)
        address = self.peer_addr[0]
        if (is_trusted := self.trusted.get(address)) is None:
            if len(self.trusted) >= KEPT_PEERS:
                self.trusted.clear()
            is_trusted = bool(super()._peer_is_trusted_proxy())  # type: ignore[misc] # (as above)
            self.trusted[address] = is_trusted
        return is_trusted


class IdleTimeout(gevent.Timeout):
    """The wait for a connection's next request: ends quietly, and at once when the worker stops."""

    def __init__(self, seconds: float, waiting: dict[Any, "IdleTimeout"]) -> None:
        super().__init__(seconds, exception=False)  # type: ignore[arg-type]
        self.waiting = waiting

    def __enter__(self) -> Self:
        self.waiting[gevent.getcurrent()] = self
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:  # noqa: PYI036 (as the base takes them)
        self.waiting.pop(gevent.getcurrent(), None)
        return super().__exit__(*error)


class StreamingWorker(GeventWorker):
    """A GeventWorker for connections that live for hours.

    Stock gunicorn lets them run into `graceful_timeout` and cuts them without running `finally`.
    """

    def init_process(self) -> None:
        """Become a worker, just after the fork."""
        self.waiting: dict[Any, IdleTimeout] = {}
        settle(self.cfg)
        die_with_parent(signal.SIGTERM, self.ppid)
        super().init_process()

    def patch(self) -> None:
        """Make blocking calls cooperative, psycopg2's among them; the application comes later."""
        super().patch()
        # Not above: whatever this imports must find the patched modules.
        with no_collector():
            from greenroom.database.engine import install_wait_callback  # noqa: PLC0415

        install_wait_callback()

    def load_wsgi(self) -> None:
        """Import the application and make it."""
        with no_collector():
            super().load_wsgi()
        calm_collector()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Answer one request of a connection; what it returns nobody asks for.

        Raises:
            StopIteration: the connection is to be closed.
        """
        # As the base has it: whoever ends a connection from outside throws one of these.
        with suppress(gevent.GreenletExit, SystemExit):
            self._answer(listener_name, req, sock, addr)
        return True

    def _answer(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        response, environ = wsgi.create(
            req, sock, addr, listener_name, self.cfg, response_class=PromptResponse
        )
        environ["wsgi.multithread"] = True
        environ[RESPONSE] = response
        if not self.alive:
            response.force_close()
        try:
            chunks = self.wsgi(environ, response.start_response)  # type: ignore[arg-type]
            if self.is_already_handled(chunks):
                return
            # A stream may last for hours, and what it came from is not needed any more.
            del environ
            try:
                for chunk in chunks:
                    response.write(chunk)
                response.close()
            finally:
                if hasattr(chunks, "close"):
                    chunks.close()
        except OSError:
            raise
        except Exception as error:
            if not response.headers_sent:
                raise
            # Too late for an answer of another status.
            self.log.exception("Error handling request")
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            raise StopIteration from error
        if response.should_close():
            raise StopIteration

    def timeout_ctx(self) -> IdleTimeout:  # type: ignore[override]
        """Limit the wait for a connection's next request."""
        return IdleTimeout(self.cfg.keepalive if self.alive else 0, self.waiting)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: let requests end within `graceful_timeout`."""
        super().handle_exit(sig, frame)
        gevent.spawn(self.end_connections)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT and SIGINT: end at once."""
        gevent.spawn(self.end_connections)
        super().handle_quit(sig, frame)

    def end_connections(self) -> None:
        """Let streams end themselves; close connections that wait for a next request."""
        shutdown.run_all()
        for greenlet, timeout in list(self.waiting.items()):
            gevent.kill(greenlet, timeout)
