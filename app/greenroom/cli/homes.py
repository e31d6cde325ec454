"""Where the servers of `greenroom dev` keep their files and programs, and whom they run as."""

import os
import re
import shutil
import socket
import tempfile
from importlib.metadata import version
from pathlib import Path

from greenroom.cli.processes import Account
from greenroom.logs import get_logger

log = get_logger(__name__)

NOBODY = Account(65534, 65534)
HOMES_OF_ROOT = Path("/var/lib/greenroom")
"""Where the data lies when root's own directory is closed to everybody else."""

LONGEST_SOCKET = ".s.PGSQL.65535.lock"
"""No name that Postgres or Valkey give is longer; the system allows a path some hundred bytes."""
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")
"""Of which no character means anything in a URI, to libpq or to SQLAlchemy."""


def choose_account(directory: Path) -> Account | None:
    """Choose whom the servers run as: Postgres refuses root. None is ourselves."""
    if os.geteuid() != 0:
        return None
    data = directory / "postgres"
    if data.exists() and data.stat().st_uid != 0:
        return Account(data.stat().st_uid, data.stat().st_gid)
    return NOBODY


def open_home(directory: Path, account: Account | None) -> Path:
    """Choose where files go: the directory itself, unless it is closed to the account."""
    link = directory / "home"
    if link.is_symlink() and link.exists():
        return link.resolve()
    if account is None or _can_enter(directory.resolve(), account):
        return directory
    HOMES_OF_ROOT.mkdir(parents=True, exist_ok=True)
    HOMES_OF_ROOT.chmod(0o755)
    home = Path(tempfile.mkdtemp(dir=HOMES_OF_ROOT))
    home.chmod(0o755)
    link.unlink(missing_ok=True)
    link.symlink_to(home)
    log.info("data lies elsewhere: the directory is open to root only", directory=str(home))
    return home


def open_binaries(package: Path, distribution: str, home: Path, account: Account | None) -> Path:
    """Find the package's directory, or a copy of it where the account cannot reach the original."""
    if account is None or _can_run_all(package, account):
        return package
    target = home / f"{distribution}-{version(distribution)}"
    if not target.exists():
        for old in home.glob(f"{distribution}-*"):
            shutil.rmtree(old)
        new = home / f"new-{distribution}"
        shutil.rmtree(new, ignore_errors=True)
        _copy_readable(package, new / package.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            _copy_readable(libraries, new / libraries.name)
        new.chmod(0o755)
        new.rename(target)
    return target / package.name


def open_sockets(directory: Path, account: Account | None) -> Path | None:
    """Make an empty directory for a server's Unix socket; None where a socket would not do.

    Not every file system has them, their paths are short, and ours are part of URIs.
    """
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        probe = directory / LONGEST_SOCKET
        if not PLAIN_PATH.fullmatch(str(directory)):
            return None
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(probe))
        probe.unlink()
        if account:
            os.chown(directory, *account)
        if not os.access(directory, os.W_OK | os.X_OK):
            # Root enters what is another's, unless its capabilities were taken from it.
            return None
    except OSError as error:
        log.debug("no unix socket", directory=str(directory), error=str(error))
        return None
    return directory


def _can_enter(path: Path, account: Account) -> bool:
    """Tell by the modes alone whether an account may pass through a directory and all above it."""
    for directory in (path, *path.parents):
        found = directory.stat()
        if found.st_uid == account.uid:
            shift = 6
        elif found.st_gid == account.gid:
            shift = 3
        else:
            shift = 0
        if not found.st_mode >> shift & 1:
            return False
    return True


def _can_run_all(package: Path, account: Account) -> bool:
    programs = [path for path in package.rglob("*") if os.access(path, os.X_OK)]
    return all(_can_enter(path, account) for path in programs)


def _copy_readable(source: Path, target: Path) -> None:
    """Copy a tree so that everybody may read and run it, whatever umask installed it."""
    target.mkdir(parents=True)
    target.chmod(0o755)
    for entry in source.iterdir():
        copy = target / entry.name
        if entry.is_dir():
            _copy_readable(entry, copy)
        else:
            shutil.copyfile(entry, copy)
            copy.chmod(0o755 if entry.stat().st_mode & 0o100 else 0o644)
