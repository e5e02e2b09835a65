"""Versions: what the lock, the oldest versions and pyproject.toml say of each other, and the check of wheels."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.lock_wheels import lines_without_wheel

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
LINUX = "manylinux_2_17_x86_64.manylinux2014_x86_64"


def pins(path: Path) -> dict[str, list[Requirement]]:
    """Return the lines of each package; several where its version differs by Python or platform."""
    found: dict[str, list[Requirement]] = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            found.setdefault(canonicalize_name(Requirement(line).name), []).append(Requirement(line))
    return found


def direct(*, development: bool) -> dict[str, Requirement]:
    """Return the requirements of pyproject.toml by name."""
    project = PROJECT["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    listed += PROJECT["dependency-groups"]["dev"] if development else []
    return {canonicalize_name(each.name): each for each in map(Requirement, listed)}


def version(pin: Requirement) -> Version:
    (exact,) = pin.specifier
    return Version(exact.version)


def lowest(requirement: Requirement) -> Version:
    (bound,) = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    return bound


def test_the_lock_holds_each_dependency_in_a_version_that_is_admitted() -> None:
    locked = pins(ROOT / "requirements.lock")
    for name, asked in direct(development=True).items():
        for pin in locked[name]:
            assert asked.specifier.contains(version(pin)), f"{pin} is not {asked}"


def test_the_lock_is_for_the_public_index_and_one_torch() -> None:
    """No local versions, files or index addresses; torch is the version that pyproject.toml holds."""
    assert not re.search(r"\+|://|file:|^-|@", LOCK, re.MULTILINE)
    (held,) = [each for each in PROJECT["tool"]["uv"]["constraint-dependencies"] if each.startswith("torch==")]
    assert f"\n{held}\n" in LOCK


def test_the_oldest_versions_that_are_tested_are_those_that_are_admitted() -> None:
    tested = pins(ROOT / "requirements.lowest")
    for name, asked in direct(development=False).items():
        if name != "gcsfs":  # an extra, which no test needs
            (pin,) = tested[name]
            assert version(pin) == lowest(asked), f"{asked} is claimed, {pin} is tested"


def package(*wheels: str, marker: str | None = None) -> list[dict[str, Any]]:
    always = "python_version >= '3'"
    return [{"name": "p", "version": "1", "wheels": [{"name": each} for each in wheels], "marker": marker or always}]


@pytest.mark.parametrize(
    ("wheels", "missing"),
    [
        (["p-1-py3-none-any.whl"], 0),
        (["p-1-cp311-abi3-macosx_11_0_arm64.whl", "p-1-cp311-abi3-manylinux_2_28_aarch64.whl"], 4),
        ([f"p-1-cp311-cp311-{LINUX}.whl", f"p-1-cp312-cp312-{LINUX}.whl"], 10),
        (["p-1-cp311-abi3-manylinux_2_34_x86_64.whl", "p-1-cp312-abi3-macosx_15_0_arm64.whl"], 12),
        (["p-1-cp314-cp314t-macosx_11_0_arm64.whl"], 12),
        (["p-1-py2.py3-none-manylinux1_x86_64.whl"], 8),
        ([], 12),
    ],
)
def test_wheels_are_looked_for_on_each_platform_and_python(wheels: list[str], missing: int) -> None:
    found = list(lines_without_wheel(package(*wheels)))
    assert len(found) == missing
    assert all(line.startswith("p==1: no wheel for ") for line in found)


def test_a_package_is_needed_only_where_its_marker_holds() -> None:
    marker = "sys_platform == 'linux' and platform_machine == 'aarch64' and python_full_version < '3.12'"
    assert list(lines_without_wheel(package(marker=marker))) == ["p==1: no wheel for Linux aarch64, Python 3.11"]
    assert list(lines_without_wheel(package(marker="sys_platform == 'win32'"))) == []


def test_the_command_names_what_is_missing_and_ends_with_1(tmp_path: Path) -> None:
    lock = tmp_path / "pylock.toml"
    wheel = '{url = "https://index.example/p/p-1-py3-none-any.whl"}'
    lock.write_text(f'[[packages]]\nname = "p"\nversion = "1"\nwheels = [{wheel}]\n')
    command = [sys.executable, "-m", "tests.lock_wheels", str(lock)]
    good = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert good.stdout.startswith("1 packages, 0 wheels missing")
    lock.write_text('[[packages]]\nname = "p"\nversion = "1"\n')
    bad = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert bad.returncode == 1
    assert "p==1: no wheel for macOS arm64, Python 3.14\n" in bad.stdout
