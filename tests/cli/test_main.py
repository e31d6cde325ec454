"""The command line: what it refuses, and in what words."""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

import greenroom as package
from greenroom.cli.embedded import EmbeddedPostgres, EmbeddedRedis
from greenroom.cli.engine import free_port

COMMANDS = ("dev", "web", "worker", "migrate")
GOOD = {"DATABASE_URI": "postgresql://u:p@127.0.0.1:1/d", "REDIS_URI": "redis://127.0.0.1:1/0"}


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[EmbeddedPostgres, EmbeddedRedis]]:
    """A Postgres and a Valkey for all tests of this module."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        with EmbeddedPostgres(directory) as postgres, EmbeddedRedis(directory) as valkey:
            yield postgres, valkey


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check an orderly refusal: exit code 1, one line on standard error, and what it says."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("greenroom: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_version_is_told_quickly(greenroom, tmp_path):
    """`--version` prints the version, and loads none of the heavy libraries for it."""
    result = greenroom("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"greenroom, version {package.__version__}\n")

    code = (
        "import sys; from greenroom.cli.main import main; sys.argv[1:] = ['--version']\n"
        "try: main()\n"
        "finally: print({'sqlalchemy', 'flask', 'langgraph', 'psycopg'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "set()"


def test_help_names_the_commands(greenroom, tmp_path):
    """The commands for people are listed; the internal one is not."""
    result = greenroom("--help", cwd=tmp_path)
    assert all(f"  {name} " in result.stdout for name in COMMANDS)
    assert "graphs" not in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_langgraph_json_is_named(greenroom, tmp_path, command):
    """Every command says which file it looked for."""
    result = greenroom(command, cwd=tmp_path, **GOOD)
    assert_one_line(result, "langgraph.json does not exist", "-c")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_langgraph_json_that_is_not_json_is_named(greenroom, tmp_path, command):
    """A broken file is named by the path that was given."""
    (tmp_path / "mine.json").write_text('{"graphs": ')
    result = greenroom(command, "-c", "mine.json", cwd=tmp_path, **GOOD)
    assert_one_line(result, "mine.json cannot be read")


def test_the_graphs_process_reports_a_wrong_configuration_by_its_exit_code(greenroom, tmp_path):
    """EX_CONFIG tells the supervisor that another start would fail alike."""
    assert greenroom("graphs", cwd=tmp_path, **GOOD).returncode == 78


@pytest.mark.parametrize("command", ["web", "worker", "migrate"])
def test_production_commands_need_servers(greenroom, project, command):
    """Without DATABASE_URI only `dev` starts anything."""
    assert_one_line(greenroom(command, cwd=project), "DATABASE_URI is not set")


def test_a_taken_port_is_named(greenroom, project):
    """A port in use: its number and the remedy, before anything starts."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = greenroom("dev", "--port", port, cwd=project)

    assert_one_line(result, f"port {port}", "--port")
    assert not (project / ".greenroom").exists()


def test_an_address_of_another_machine_is_refused(greenroom, project):
    """A host that is not ours cannot be listened on."""
    assert_one_line(greenroom("dev", "--host", "192.0.2.1", cwd=project), "192.0.2.1", "HOST")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"DATABASE_URI": "mysql://u:secret@h/d"}, ["DATABASE_URI", "postgresql://"]),
        ({"REDIS_URI": "http://:secret@h"}, ["REDIS_URI", "redis://"]),
        ({"DATABASE_URI": "postgresql://u:secret@127.0.0.1:1/d"}, ["DATABASE_URI", "127.0.0.1:1"]),
        ({"DATABASE_URI": "postgresql://u:sec/ret@h/d"}, ["DATABASE_URI", "percent-encode"]),
        ({"DATABASE_URI": "postgresql://u:secret@h:x/d"}, ["DATABASE_URI", "h:x"]),
        ({"REDIS_URI": "redis://:sec#ret@h"}, ["REDIS_URI", "percent-encode"]),
    ],
)
def test_wrong_addresses_are_named_without_their_secrets(
    greenroom, project, engines, settings, words
):
    """The variable and the host are told, the password never."""
    postgres = engines[0].uri if "REDIS_URI" in settings else GOOD["DATABASE_URI"]
    given = GOOD | {"DATABASE_URI": postgres} | settings
    result = greenroom("migrate", cwd=project, **given)
    assert_one_line(result, *words)
    assert "sec" not in result.stderr


def test_a_wrong_postgres_password_is_told(greenroom, project, engines):
    """Postgres's own reason is part of the line."""
    uri = engines[0].uri.replace(engines[0].password, "guess")
    result = greenroom("migrate", cwd=project, **GOOD | {"DATABASE_URI": uri})
    assert_one_line(result, "DATABASE_URI", "password authentication failed")
    assert "guess" not in result.stderr


@pytest.mark.parametrize("password", ["guess", ""])
def test_a_wrong_redis_password_is_told(greenroom, project, engines, password):
    """So is Redis's."""
    postgres, valkey = engines
    uri = valkey.uri.replace(valkey.password, password)
    result = greenroom("worker", cwd=project, DATABASE_URI=postgres.uri, REDIS_URI=uri)
    assert_one_line(result, "REDIS_URI", f"127.0.0.1:{valkey.port}")
    assert "guess" not in result.stderr


def test_an_unreachable_redis_is_named(greenroom, project, engines):
    """A refused connection: the variable, host and port."""
    settings = GOOD | {"DATABASE_URI": engines[0].uri}
    assert_one_line(greenroom("web", cwd=project, **settings), "REDIS_URI", "127.0.0.1:1")


def test_a_redis_cluster_is_refused(greenroom, project, engines, tmp_path):
    """A cluster cannot hold our keys together: it is refused in plain words."""
    (binary,) = engines[1].binaries.glob("_binaries/*/valkey-server")
    port = str(free_port())
    options = ["--port", port, "--cluster-enabled", "yes", "--bind", "127.0.0.1"]
    # Its own choice is ten thousand above, which may not be a port at all.
    options += ["--cluster-port", str(free_port())]
    cluster = subprocess.Popen(
        [binary, *options], cwd=tmp_path, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        wait_for_redis(int(port), cluster)
        settings = {"DATABASE_URI": engines[0].uri, "REDIS_URI": f"redis://127.0.0.1:{port}"}
        assert_one_line(greenroom("web", cwd=project, **settings), "REDIS_URI", "Cluster")
    finally:
        cluster.kill()
        cluster.wait()


def wait_for_redis(port: int, process: subprocess.Popen[bytes]) -> None:
    """Connect until the server takes it."""
    while process.poll() is None:
        with suppress(redis.ConnectionError), redis.Redis(port=port) as client:
            if client.ping():
                return
    pytest.fail("the server has ended")


def test_dev_uses_the_servers_that_are_given(greenroom, project):
    """A DATABASE_URL in the environment or in langgraph.json's env: no embedded Postgres starts."""
    settings = {"DATABASE_URL": "postgresql://u@127.0.0.1:1/d"}
    port = str(free_port())
    result = greenroom("dev", "--port", port, cwd=project, **settings, REDIS_URI=GOOD["REDIS_URI"])
    assert_one_line(result, "DATABASE_URI", "127.0.0.1:1")

    (project / "langgraph.json").write_text(
        '{"graphs": {"a": "./agent.py:graph"}, "env": {"POSTGRES_URI": "postgresql://h:1/d",'
        ' "REDIS_URL": "redis://127.0.0.1:1"}}'
    )
    result = greenroom("dev", "--port", port, cwd=project)
    assert_one_line(result, "DATABASE_URI", "h:1")
    assert not (project / ".greenroom").exists()
