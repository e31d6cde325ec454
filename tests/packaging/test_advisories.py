"""What we install, held against the holes that are known; without the network."""

import configparser
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
KNOWN = [
    line.split()
    for line in (Path(__file__).parent / "advisories.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
REQUIRED = [
    Requirement(line)
    for text in (SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values())
    for line in text.splitlines()
    if line and not line.startswith("#")
]


def name_of(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def floor_of(requirement: Requirement) -> Version | None:
    """The oldest version that a requirement allows."""
    floors = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    return max(floors, default=None)


@pytest.mark.parametrize(("package", "fixed", "advisory"), KNOWN)
def test_nothing_with_a_known_hole_is_installed(package: str, fixed: str, advisory: str) -> None:
    """Not here, where the tests run, nor by the ranges that users install by."""
    try:
        assert Version(version(package)) >= Version(fixed), advisory
    except PackageNotFoundError:
        return
    for requirement in REQUIRED:
        if name_of(requirement.name) == name_of(package):
            floor = floor_of(requirement)
            assert floor is not None
            assert floor >= Version(fixed), f"{advisory}: raise the floor of {requirement}"


@pytest.mark.parametrize("requirement", SETUP["options"]["install_requires"].split("\n"))
def test_what_users_install_has_a_floor(requirement: str) -> None:
    """Without one, an old hole could be what a resolver picks."""
    if requirement and not requirement.startswith("#"):
        assert floor_of(Requirement(requirement)) is not None
