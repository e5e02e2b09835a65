"""The package as a stranger gets it: `python -m tests.package --uv .venv/bin/uv` builds, installs and uses it.

Wheel and sdist are built in a temporary folder; the wheel is installed into an empty environment there, with the
versions of requirements.lock, and labels a few synthetic images. No process of that environment may open a file of the
repository: an audit hook in it notes all that do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.resolve()
IMAGES = 6
# Runs at the start of each Python of the environment, Ray's workers included.
WITNESS = """
import os, sys

def note(event, arguments):
    path = arguments[0] if event == "open" and arguments else None
    if isinstance(path, (str, bytes)) and os.path.realpath(os.fsdecode(path)).startswith({root!r}):
        line = os.fsencode(path) + b"\\n"
        file = os.open({notes!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line)
        os.close(file)

sys.addaudithook(note)
"""


def main(arguments: list[str] | None = None) -> int:
    """Build, check, install and use the package; return 0, or raise on the first thing that is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.package", description=__doc__)
    parser.add_argument("--uv", required=True, help="the uv that builds")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="labeler-package-") as name:
        folder = Path(name).resolve()
        wheel = build(asked.uv, folder)
        use(install(wheel, folder), folder)
    print("the package works outside the repository")
    return 0


def build(uv: str, folder: Path) -> Path:
    """Return the wheel of the repository, after checking its contents and that the sdist builds the same."""
    _run(uv, "build", "-q", "--wheel", "--out-dir", folder / "from-tree", ROOT)
    _run(uv, "build", "-q", "--sdist", "--out-dir", folder / "sdist", ROOT)
    (sdist,) = (folder / "sdist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    _run(uv, "build", "-q", "--wheel", "--out-dir", folder / "from-sdist", unpacked)
    (wheel,) = (folder / "from-tree").glob("*.whl")
    (again,) = (folder / "from-sdist").glob("*.whl")
    members = wheel_members(wheel)
    check_members(members)
    assert members == wheel_members(again), "the sdist builds another wheel"
    print(f"{wheel.name}: {len(members)} files, {wheel.stat().st_size:,} bytes; the same from {sdist.name}")
    return wheel


def wheel_members(wheel: Path) -> dict[str, bytes]:
    """Return the content of each file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def check_members(members: Iterable[str]) -> None:
    """Raise AssertionError unless the wheel holds exactly the files of labeler/ and its own metadata."""
    present = {name for name in members if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "labeler").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert present == expected, f"missing {sorted(expected - present)}, unexpected {sorted(present - expected)}"
    assert "labeler/py.typed" in present
    assert any(name.endswith("/licenses/LICENSE") for name in members), "no license"


def install(wheel: Path, folder: Path) -> Path:
    """Return the `bin` folder of a new environment with the wheel, in the lock's versions."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    _run(python, "-m", "pip", "install", "-q", "--no-compile", "-c", ROOT / "requirements.lock", wheel)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    witness = WITNESS.format(root=f"{ROOT}/", notes=str(folder / "opened"))
    (packages / "witness_of_files.py").write_text(witness)
    (packages / "witness_of_files.pth").write_text("import witness_of_files\n")
    _run(python, "-c", f"open({str(ROOT / 'pyproject.toml')!r}).close()")
    (folder / "opened").unlink()  # it was noted: the witness sees
    return python.parent


def use(bin: Path, folder: Path) -> None:
    """Label, verify, export and report with the installed package, in a folder that holds only data."""
    work = folder / "work"
    work.mkdir()
    shutil.copytree(ROOT / "models" / "shapes", work / "model")  # read here, before the witness looks
    options = f"images={IMAGES}, seed=7, images_per_shard=3"
    draw = f"from labeler.training import shapes; shapes.write_data_set('data', {options})"
    config = {
        "input": "data/shards",
        "output": "run",
        "vocabulary": "data/vocabulary.txt",
        "model": {"name": "model"},
        "ray": {"cpus_per_worker": 1},
    }
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    commands: list[list[object]] = [
        [bin / "python", "-m", "labeler", "--version"],
        [bin / "python", "-c", draw],
        [bin / "labeler", "label", "config.yaml"],
        [bin / "python", "-m", "labeler", "status", "run", "--verify"],
        [bin / "labeler", "export", "run", "--to", "coco", "--threshold", "0.3"],
        [bin / "labeler", "report", "run"],
    ]
    for command in commands:
        _run(*command, cwd=work)
    coco = json.loads((work / "run" / "exports" / "coco.json").read_text())
    assert len(coco["images"]) == IMAGES
    assert coco["annotations"], "nothing was found"
    assert (work / "run" / "report.html").stat().st_size > 10_000
    opened = folder / "opened"
    assert not opened.exists(), f"files of the repository were opened: {sorted(set(opened.read_text().split()))}"


def _run(*command: object, cwd: Path | None = None) -> None:
    """Run a command away from the repository, with its output shown; raise CalledProcessError if it fails."""
    words = [str(word) for word in command]
    print("+", *words, flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run(words, check=True, env=environment, cwd=cwd or tempfile.gettempdir())


if __name__ == "__main__":
    sys.exit(main())
