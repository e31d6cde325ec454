"""What a command checks before it starts anything: the port, and the servers behind the URIs."""

import errno
import signal
import socket
import sys
import time

import click

from greenroom.cli.environment import own_environment
from greenroom.cli.processes import fork
from greenroom.config import Config
from greenroom.errors import ConfigError

PORT_PATIENCE_SECONDS = 3.0


def check_services_apart(config: Config) -> None:
    """As `services.check_services`, in a child: what drivers import would stay in our memory.

    Raises:
        SystemExit: they cannot be used, and the child has said why.
    """

    def check() -> None:
        from greenroom.cli.services import check_services  # noqa: PLC0415 (only in the child)

        try:
            check_services(config)
        except ConfigError as error:
            click.echo(f"greenroom: {error}", err=True)
            sys.exit(1)

    child = fork(check, "check", death_signal=signal.SIGKILL, environment=own_environment())
    if code := child.wait():
        sys.exit(code)


def check_port(host: str, port: int) -> None:
    """Wait a moment for the port: the gunicorn of a killed process lets it go within seconds.

    Raises:
        ConfigError: we may not listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + PORT_PATIENCE_SECONDS
    while error := _bind_error(family, host, port):
        if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
            time.sleep(0.1)
            continue
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is taken: stop what listens there, "
                "or choose another with --port or PORT"
            )
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror}): see HOST and PORT"
        )


def _bind_error(family: socket.AddressFamily, host: str, port: int) -> OSError | None:
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None
