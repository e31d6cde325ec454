"""Deployments whose processes each test starts with its keys."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
from deployment import PROJECT, Deployment
from sqlalchemy import text

FIRST, SECOND = "k" * 32, "the second key!!"
SECRET = "a planted secret"


def deploy(project: Path = PROJECT) -> Iterator[Deployment]:
    """Engines with a migrated database, and no processes yet."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as directory:
        Path(directory).chmod(0o755)
        with Deployment(Path(directory), project=project) as made:
            yield made


def serve(deployment: Deployment, **settings: str) -> httpx.Client:
    """Start a web process and a worker with the same settings; a client of the web."""
    url = deployment.start_web(**settings)
    deployment.start_worker(**settings)
    return deployment.client(url)


def stop(deployment: Deployment) -> None:
    """End every process but the engines."""
    processes = [*deployment.workers, *deployment.webs.values()]
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=30)
    deployment.workers.clear()
    deployment.webs.clear()


def files_with(deployment: Deployment, secret: str) -> list[str]:
    """The database's files in which a text can be read, the log of its writes included."""
    with deployment.database.statement() as connection:
        connection.execute(text("CHECKPOINT"))
    home = Path(deployment.value("SHOW data_directory"))
    return [
        str(file.relative_to(home))
        for file in home.rglob("*")
        if file.is_file() and secret.encode() in file.read_bytes()
    ]
