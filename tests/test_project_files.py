"""The files around the code: what the forge runs exists, and each fact has one place."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import labeler
from labeler.submission.server import DISTRIBUTION

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_the_forge_runs_are_targets_of_the_makefile(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    called = set()
    for job in jobs.values():
        targets = job.get("strategy", {}).get("matrix", {}).get("target", [])
        for step in job["steps"]:
            found = re.findall(r"^make (.+)$", step.get("run", ""), re.MULTILINE)
            called |= set(targets) if found == ["${{ matrix.target }}"] else set(found)
    assert called
    for target in called:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_the_forge_runs_what_a_release_needs() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS)
    for target in ("check", "check-lock", "test-package", "demo", "test", "test-slow", "test-lowest", "chaos", "fuzz"):
        assert re.search(rf"\bmake {target}\b|[\[ ]{target}[,\]]", text), target


def test_the_distribution_has_one_name_and_the_code_has_the_version() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == labeler.__version__


def test_every_extra_is_explained_where_one_installs() -> None:
    text = (ROOT / "README.md").read_text()
    for extra in PROJECT["optional-dependencies"]:
        assert f"[{extra}]" in text, extra


def test_links_between_the_files_lead_somewhere() -> None:
    pages = ("docs/contributing/releasing.md", "docs/guides/python.md")
    for name in ("SECURITY.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", *pages):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
            assert target.startswith("https://") or ((ROOT / name).parent / target).exists(), f"{name}: {target}"
