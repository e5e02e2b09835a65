"""The command line as a user meets it: exit codes, one-line refusals, and the jobs that are its thin files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from pycocotools.coco import COCO

from labeler.cli import main
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes, write_tars

ROOT = Path(__file__).parent.parent


def write_config(path: Path, source: object, output: Path, checkpoint: Path, **extra: object) -> Path:
    values = {
        "input": str(source),
        "output": str(output),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint)},
        "detect": {"score_floor": 0.0, "max_detections": 5},
        **extra,
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def config(tmp_path: Path, checkpoint: Path) -> Path:
    write_tars(tmp_path / "in", shards=2, images=3)
    return write_config(tmp_path / "config.yaml", tmp_path / "in", tmp_path / "out", checkpoint)


def refusal(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line a refused command prints; asserts the exit code."""
    assert main([str(word) for word in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith("labeler: ")
    assert "Traceback" not in "".join(lines)
    return lines[0]


def test_every_verb_has_its_job_file() -> None:
    for verb in ("label", "preview", "status", "export", "evaluate", "train", "vocabulary"):
        result = subprocess.run(
            [sys.executable, "-m", f"jobs.{verb}", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
        )
        assert f"labeler {verb}" in result.stdout


BAD_INPUT: Mapping[str, tuple[list[str], str]] = {
    "no config": (["label", "none.yaml"], "none.yaml cannot be read"),
    "unknown key": (["label", "CONFIG", "detect.floor=1"], "unknown key detect.floor"),
    "no model": (["label", "CONFIG", "model.name=null"], "model.name is missing"),
    "no checkpoint there": (["label", "CONFIG", "model.name=/nowhere/model"], "/nowhere/model"),
    "unreadable checkpoint": (["label", "CONFIG", "model.name=BROKEN"], "config.json"),
    "unknown vocabulary": (["label", "CONFIG", "vocabulary=cocco"], "coco"),
    "no image found": (["label", "CONFIG", "input=EMPTY"], "EMPTY"),
    "no such input": (["label", "CONFIG", "input=/nowhere/in"], "/nowhere/in"),
    "not writable": (["label", "CONFIG", "output=/proc/out"], "/proc/out"),
    "no run": (["status", "EMPTY"], "is not a labeler run"),
    "export of no run": (["export", "EMPTY", "--to", "coco"], "is not a labeler run"),
    "bad threshold": (["label", "CONFIG", "detect.score_floor=2"], "detect.score_floor"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2_and_writes_nothing(
    case: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, expected = BAD_INPUT[case]
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "config.json").write_text("{")
    places = {"CONFIG": str(config), "EMPTY": str(tmp_path / "EMPTY"), "BROKEN": str(tmp_path / "BROKEN")}
    for name, place in places.items():
        argv = [word.replace(name, place) for word in argv]
    assert expected.replace("EMPTY", places["EMPTY"]) in refusal(capsys, *argv)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_a_run_would_take_and_writes_nothing(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(config), "--dry-run", "--price-per-hour", "2.5", "ray.workers=4"]) == 0
    out = capsys.readouterr().out
    for word in ("2 shards", "6 categories in 1 prompt chunk", "passes   1 per image", "images/s", "CPU-hours",
                 "4 workers", "of Parquet", "at 2.5 per CPU-hour"):  # fmt: skip
        assert word in out, out
    assert not (tmp_path / "out").exists()


def test_a_preview_draws_a_sample_including_what_failed(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "00002.tar").write_bytes(tar_bytes({"broken.jpg": b"<html>"}))
    png = tmp_path / "sheet.png"
    assert main(["preview", str(config), "--images", "7", "--threshold", "0", "--png", str(png)]) == 0
    out = capsys.readouterr().out
    assert "7 images (decode_error 1, labeled 6)" in out
    assert png.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out").exists()


def run_labeler(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "labeler", *map(str, argv)], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.slow  # a minute; `make demo` runs the same commands
def test_label_status_and_export_from_the_shell(config: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "00002.tar").write_bytes(tar_bytes({"broken.jpg": b"<html>", "z.png": image_bytes(5)}))
    labeled = run_labeler("label", config, "ray.cpus_per_worker=1")
    assert labeled.returncode == 0, labeled.stderr
    assert "complete: 8 images in 3 shards: labeled 7, decode_error 1" in labeled.stdout
    assert "images 8/" in labeled.stderr

    status = run_labeler("status", tmp_path / "out", "--verify")
    assert status.returncode == 0, status.stdout + status.stderr
    assert "3 of 3 finished" in status.stdout
    assert status.stdout.endswith("complete\n")

    exported = run_labeler("export", tmp_path / "out", "--to", "coco", "--output", tmp_path / "coco.json")
    assert exported.returncode == 0, exported.stderr
    assert "excluded, because they could not be labeled: decode_error 1" in exported.stdout
    coco = COCO(str(tmp_path / "coco.json"))
    assert len(coco.imgs) == 7
    assert {image["file_name"].split("/")[0] for image in coco.imgs.values()} == {"00000.tar", "00001.tar", "00002.tar"}
    assert {c["name"] for c in coco.cats.values()} == set(NAMES)

    (tmp_path / "out" / "shards" / "000002-1-2").unlink()
    assert run_labeler("status", tmp_path / "out").returncode == 1
    refused = run_labeler("export", tmp_path / "out", "--to", "coco")
    assert refused.returncode == 2
    assert "--partial" in refused.stderr
    assert run_labeler("export", tmp_path / "out", "--to", "coco", "--partial").returncode == 0
    assert json.loads((tmp_path / "out/exports/coco.json").read_text())["images"]


def test_vocabulary_check_reports_every_problem(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\nCat\nwhat?\n☃\ndog\n")
    assert main(["vocabulary", "check", str(path), "--model", str(checkpoint)]) == 2
    err = capsys.readouterr().err
    for line in ("line 2", "line 3", "line 4"):
        assert line in err, err


def test_vocabulary_check_prints_warnings_beside_problems(
    config: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat, dog\ndog\ndog\n")
    for words in ([path], [path, "--model", checkpoint], [config, f"vocabulary={path}"]):
        assert main(["vocabulary", "check", *map(str, words)]) == 2
        said = capsys.readouterr()
        assert "line 3" in said.err
        assert said.out.startswith('warning: line 1: "cat, dog"'), said.out


def test_vocabulary_check_of_a_run_s_configuration_names_its_problems(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vocabulary", "check", str(config)]) == 0
    assert "6 categories" in capsys.readouterr().out
    values = yaml.safe_load(config.read_text())
    values["vocabulry"] = values.pop("vocabulary")
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(values))
    assert main(["vocabulary", "check", str(tmp_path / "typo.yaml")]) == 2
    assert "unknown key vocabulry; did you mean vocabulary?" in capsys.readouterr().err


def test_vocabulary_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vocabulary", "list"]) == 0
    assert "lvis_v1: 1203 categories" in capsys.readouterr().out
    assert main(["vocabulary", "show", "coco"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 80
