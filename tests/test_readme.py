"""What the README says is run: its commands parse, its Python and SQL work on a real checkpoint and a real run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import yaml
from PIL import Image

from labeler.cli import _parse
from labeler.config import make_config
from labeler.labels.detections import Detections
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from tests.inputs import image_bytes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [body for name, body in fenced if name == language]


def commands() -> Iterator[str]:
    """Every `labeler ...` in a shell block or in backquotes, without its comment."""
    inline = re.findall(r"`(?:\.venv/bin/)?(labeler [a-z]+ [^`\n]+)`", README)
    lines = [line for block in blocks("") for line in block.splitlines()]
    for line in [*lines, *inline]:
        if line.startswith("labeler "):
            yield line.split("  #")[0].strip()


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_is_one_that_exists(command: str) -> None:
    _parse(shlex.split(command)[1:])


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_its_config_is_one_that_label_takes() -> None:
    (config,) = blocks("yaml")
    assert make_config(yaml.safe_load(config)).model.name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"!\[[^]]*\]\((docs/[^)]+)\)", README))))
def test_its_pictures_are_small_and_in_true_colors(name: str) -> None:
    assert (ROOT / name).stat().st_size <= 320_000
    with Image.open(ROOT / name) as picture:
        assert picture.mode == "RGB"


@pytest.mark.parametrize("result", sorted(set(re.findall(r"python -m (benchmarks\.\w+)", README))))
def test_every_benchmark_that_it_names_exists(result: str) -> None:
    assert (ROOT / f"{result.replace('.', '/')}.py").is_file()


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    for target in re.findall(r"^make ([a-z-]+)", "\n".join(blocks("")), re.MULTILINE):
        assert f"\n{target}: " in MAKEFILE


def test_the_python_example_runs(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = blocks("python")
    program = program.replace("IDEA-Research/grounding-dino-tiny", str(checkpoint)).replace('"coco"', '["cat", "dog"]')
    (tmp_path / "photo.jpg").write_bytes(image_bytes(1, width=90, height=80, format="JPEG"))
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {})


def test_the_sql_example_runs(tmp_path: Path) -> None:
    (query,) = blocks("sql")
    folder = tmp_path / "labels" / "000000"
    folder.mkdir(parents=True)
    found = Detections.of([[0, 1, 2, 3], [0, 1, 2, 3]], [0.75, 0.25], [7, 8])
    row = Row("a.jpg", "000000", 0, "u", "labeled", detections=found)
    (folder / "000000.parquet").write_bytes(table_to_parquet(rows_to_table([row]), {}))
    assert duckdb.sql(query.replace("demo/run", str(tmp_path))).fetchall() == [("a.jpg", 7, 0.75)]


def test_every_file_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_every_test_that_the_documents_name_exists() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    files = {path.name for path in (ROOT / "tests").glob("*.py")}
    for document in sorted((ROOT / "docs").rglob("*.md")):
        for name in re.findall(r"`(?:tests/)?(test_\w+(?:\.py)?)`", document.read_text()):
            assert name in files if name.endswith(".py") else f"def {name}(" in tests, f"{document.name}: {name}"
