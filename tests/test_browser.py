"""Without a browser, tests of pages are skipped on a developer's machine and fail in CI; CI brings a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser import REQUIRE, chromium

CI = Path(__file__).parent.parent / ".ci" / "run"


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.usefixtures("no_browser")
def test_without_a_browser_a_test_is_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"), chromium(tmp_path):
        pass


@pytest.mark.usefixtures("no_browser")
def test_without_a_browser_a_test_fails_where_one_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE, "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"), chromium(tmp_path):
        pass


def programs(folder: Path, *names: str, **scripts: str) -> Path:
    """Put programs into a folder: some of this machine's, and scripts."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, script in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    return folder


def ci(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(shutil.which("bash")), str(CI)],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": str(path)},
    )  # fmt: skip


def test_ci_fails_by_name_where_it_may_not_install_a_browser(tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", "dirname", id="echo 1000", apt_get="echo no >&2", make="echo made")
    refused = ci(path)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.endswith("apt-get install chromium chromium-driver\n")


def test_ci_installs_a_browser_that_is_missing_and_requires_it(tmp_path: Path) -> None:
    path = programs(
        tmp_path / "bin", "dirname", "mktemp", "cat", id="echo 0", apt_get='echo "$@"', make=f'echo "$1" "${REQUIRE}"'
    )  # fmt: skip
    done = ci(path)
    assert done.returncode == 0, done.stderr
    install, *made = done.stdout.splitlines()[1:]
    assert install.split()[-2:] == ["chromium", "chromium-driver"]
    assert made[0] == "install 1"
    assert made[-1] == "test 1", "the tests run alone"
    between = ["check 1", "check-lock 1", "demo 1", "docs 1", "test-package 1"]  # some beside others
    assert sorted(step for step in made[1:-1] if step != "check-deploy 1") == between  # only where the CRD is


def test_ci_fails_where_the_package_does_although_it_is_tested_beside(tmp_path: Path) -> None:
    make = 'echo "$1"; [ "$1" != test-package ]'
    done = ci(programs(tmp_path / "bin", "dirname", "mktemp", "cat", id="echo 0", apt_get="true", make=make))
    assert done.returncode != 0
    assert "test" not in done.stdout.split()
