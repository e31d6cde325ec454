"""`greenroom dev`: everything on one machine, with embedded Postgres and Valkey, and reload."""

import gc
import http.client
import json
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from greenroom.cli.adoption import Adoption
from greenroom.cli.environment import (
    HOLD,
    PYTHON,
    RELOAD,
    SECOND_WORKER,
    SLOTS,
    WORKER,
    child_environment,
    config_option,
    share_slots,
    take_arguments,
)
from greenroom.cli.processes import kill_group, spawn
from greenroom.cli.ready import check_port
from greenroom.cli.supervisor import Command, Supervisor
from greenroom.cli.web import KILL_AFTER_SECONDS, graphs_command, graphs_socket, gunicorn_command
from greenroom.cli.worker import ARGV as WORKER_ARGV
from greenroom.cli.worker import KILL_MARGIN_SECONDS
from greenroom.collector import give_back, no_collector
from greenroom.config import DATABASE_NAMES, REDIS_NAMES, Config, load_config
from greenroom.errors import ConfigError
from greenroom.logs import configure_logs, get_logger
from greenroom.store.settings import read_settings as read_store_settings

log = get_logger(__name__)

GRACE_SECONDS = 5.0
"""For runs at Ctrl-C; unfinished ones go on after the next start."""
LOOK_SECONDS = 0.1
NURSERY, NURSERY_MODULE = "nursery", "greenroom_workers.nursery"
"""The parent of the graphs process and the worker, which stays for reloads."""
CAN_FORK = sys.platform == "linux"
"""macOS has system libraries that do not survive a fork."""


@click.command("dev")
@config_option
@click.option("--host", help="Address to listen on. Default: $HOST, or 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: $PORT, or 2024.")
@click.option("--reload/--no-reload", default=True, help="Restart when the project's files change.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".greenroom"),
    show_default=True,
    help="Where the embedded Postgres keeps its data.",
)
@click.option("--n-jobs-per-worker", type=click.IntRange(min=1), help="Runs executed at once.")
@click.option("--no-browser", is_flag=True, help="Accepted and ignored: no browser is opened.")
def command(
    config_file: Path | None,
    host: str | None,
    port: int | None,
    reload: bool,  # noqa: FBT001 (an option)
    data_dir: Path,
    n_jobs_per_worker: int | None,
    no_browser: bool,  # noqa: ARG001, FBT001 (an option that changes nothing)
) -> None:
    """Run everything, for development."""
    options = {"HOST": host, "PORT": port, "N_JOBS_PER_WORKER": n_jobs_per_worker}
    given = {name: str(value) for name, value in options.items() if value is not None}
    environment = child_environment(config_file, **given)
    config, missing = draft_config(environment)
    if "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS" not in {**config.project.environment, **environment}:
        environment["BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS"] = str(GRACE_SECONDS)
        config = replace(config, shutdown_grace_seconds=GRACE_SECONDS)
    configure_logs(config.log_level, as_json=config.log_json)
    check_port(config.host, config.port)
    with ExitStack() as stack:
        config = start_engines(config, missing, data_dir, stack)
        environment |= {
            "DATABASE_URI": config.database_uri,
            "REDIS_URI": config.redis_uri,
            "GREENROOM_GRAPHS_SOCKET": stack.enter_context(graphs_socket(config.graphs_socket)),
        }
        # The mark is for a Postgres of our own, where nobody else may be at work.
        migrate(config, environment, may_be_marked="DATABASE_URI" in missing)
        code = supervise(config, environment, reload=reload)
    sys.exit(code)


def draft_config(environment: dict[str, str]) -> tuple[Config, set[str]]:
    """Check every setting before anything starts.

    Returns:
        The configuration, and which of DATABASE_URI and REDIS_URI nobody has set; what it holds
        for those is a stand-in.
    Raises:
        ConfigError: langgraph.json or a setting is wrong.
    """
    stand_ins = {"DATABASE_URI": "postgresql://embedded", "REDIS_URI": "redis://embedded"}
    project = load_config(None, {**environment, **stand_ins}).project
    values = {**project.environment, **environment}
    families = {"DATABASE_URI": DATABASE_NAMES, "REDIS_URI": REDIS_NAMES}
    missing = {
        name for name, family in families.items() if not any(values.get(other) for other in family)
    }
    settings = {**environment, **{name: stand_ins[name] for name in missing}}
    return load_config(None, settings), missing


def start_engines(config: Config, missing: set[str], data_dir: Path, stack: ExitStack) -> Config:
    """Start the embedded servers that are needed, until `stack` closes. Returns where they are."""
    if not missing:
        return config
    # Not above: these come with the "dev" extra and are not needed beside real servers.
    from greenroom.cli.embedded import EmbeddedPostgres, EmbeddedRedis  # noqa: PLC0415

    postgres = EmbeddedPostgres(data_dir) if "DATABASE_URI" in missing else None
    valkey = EmbeddedRedis(data_dir) if "REDIS_URI" in missing else None
    engines = [engine for engine in (postgres, valkey) if engine]
    for engine in engines:
        stack.push(engine)
        engine.begin()
    # Both are starting by now.
    for engine in engines:
        engine.__enter__()
    return replace(
        config,
        database_uri=postgres.near_uri if postgres else config.database_uri,
        redis_uri=valkey.near_uri if valkey else config.redis_uri,
    )


def migrate(config: Config, environment: dict[str, str], *, may_be_marked: bool) -> None:
    """Check the servers and bring the schema up to date, in a process of its own.

    What that imports, langgraph among it, would stay in our memory for as long as we supervise.

    Args:
        may_be_marked: leave it out where a mark says that nothing has changed since. Vectors are
            looked at each time: whoever changes their size drops their tables.
    Raises:
        SystemExit: it failed, and has said why.
    """
    if not may_be_marked or read_store_settings(config.project).index is not None:
        migrate_apart(environment)
        return
    from greenroom.database import schema_mark  # noqa: PLC0415 (its driver: as in start_engines)

    if not schema_mark.is_marked(config.database_uri):
        migrate_apart(environment)
        schema_mark.mark(config.database_uri)


def migrate_apart(environment: dict[str, str]) -> None:
    """Run `greenroom migrate`; raises as above."""
    process = spawn(
        [*PYTHON, "greenroom.cli.main", "migrate"],
        death_signal=signal.SIGTERM,
        environment=environment,
    )
    try:
        code = process.wait()
    except BaseException:
        kill_group(process)
        raise
    if code:
        sys.exit(code)


def supervise(config: Config, environment: dict[str, str], *, reload: bool) -> int:
    """Run the processes until a signal. Returns the exit code."""
    # Of what is forked from us only the pages are copied that somebody writes to.
    gc.collect()
    gc.freeze()
    give_back()
    web = gunicorn_command(environment, may_fork=CAN_FORK)
    if CAN_FORK and reload:
        argv = [*PYTHON, NURSERY_MODULE, HOLD]
        nursery = Command(NURSERY, argv, environment, stops_after=(web.name,))
        commands = [web, replace(nursery, call=partial(run_module, argv[len(PYTHON) :]))]
    else:
        take = Adoption(bear, environment).take if CAN_FORK else None
        others = [graphs_command(environment), *worker_commands(config, environment)]
        # The first: it does not wait for what the others share.
        commands = [web, *(replace(other, take=take) for other in others)]
    worker_grace_seconds = config.shutdown_grace_seconds + 2 * KILL_MARGIN_SECONDS
    supervisor = Supervisor(commands, max(worker_grace_seconds, KILL_AFTER_SECONDS))
    if reload:
        # From now on a broken file is something that the next save may mend.
        supervisor.holds_misconfigured = True

    def start_threads() -> None:
        if reload:
            watch_project(config, environment, supervisor)
        threading.Thread(target=announce, args=(config,), name="announce", daemon=True).start()

    return supervisor.run(start_threads)


def worker_commands(config: Config, environment: dict[str, str]) -> list[Command]:
    """Describe the worker, and the second process that shares its slots where one is of use.

    Only what is forked waits to be called: started anew, both are at work with their own share.
    """
    first, second = share_slots(config.slots) if CAN_FORK else (config.slots, 0)
    shares = {WORKER: first, SECOND_WORKER: second}
    return [
        Command(name, WORKER_ARGV, {**environment, SLOTS: str(slots)})
        for name, slots in shares.items()
        if slots
    ]


def run_module(argv: Sequence[str]) -> None:
    """Be `python -m argv`, in a process that was forked."""
    import_as_main(argv).main()


def bear(heir_pid: int, told_fd: int) -> None:
    """Be the nursery that does not stay, in a process that was forked."""
    import_as_main([NURSERY_MODULE]).bear(heir_pid, told_fd)


def import_as_main(argv: Sequence[str]) -> Any:
    """Import the module that `python -m argv` would run."""
    take_arguments(argv)
    with no_collector():
        return import_module(argv[0])


def watch_project(config: Config, environment: dict[str, str], supervisor: Supervisor) -> None:
    """Restart the processes with user code when a file changes; all when langgraph.json does."""
    from greenroom.cli.reload import watch_in_background  # noqa: PLC0415

    project_file = Path(environment["GREENROOM_CONFIG"]).resolve()

    def restart(paths: set[Path]) -> None:
        names = [] if CAN_FORK else ["graphs", "worker"]
        if project_file in paths:
            try:
                load_config(None, environment)
            except ConfigError as error:
                log.warning("not reloaded", reason=str(error))
                return
            names.append("web")
        log.info("reloading", changed=sorted(path.name for path in paths))
        for name in names:
            supervisor.restart(name)
        if CAN_FORK:
            supervisor.send_signal(NURSERY, RELOAD)

    watch_in_background(config.project.directory, restart)


def announce(config: Config) -> None:
    """Wait until the API answers, then print its address and a request to paste."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)  # noqa: S104
    pause = threading.Event()
    while not is_up(host, config.port, f"{config.mount_prefix}/ok"):
        pause.wait(LOOK_SECONDS)
    url = f"http://{host}:{config.port}{config.mount_prefix}"
    click.echo(f"Greenroom is ready at {url}\n\nTry it:\n{example_request(url, config)}\n")


def is_up(host: str, port: int, path: str) -> bool:
    """Ask once whether the API is there."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def example_request(url: str, config: Config) -> str:
    """Write a curl command that streams a run of the project's first graph."""
    body = {
        "assistant_id": next(iter(config.project.graphs)),
        "input": {"messages": [{"role": "user", "content": "Hello"}]},
    }
    return (
        f"curl -N {url}/runs/stream \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body))}"
    )
