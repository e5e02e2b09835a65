"""The run that benchmarks make without Ray is a run like any other, and screenshots of pages keep their colors."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import pictures, without_ray
from labeler.cli import main
from labeler.config import load_config
from labeler.labeling.resolve import resolve_job
from labeler.runs import open_run
from tests.inputs import image_bytes, tar_bytes


@pytest.fixture
def config(tmp_path: Path, checkpoint: Path) -> Path:
    source = tmp_path / "in"
    source.mkdir()
    for shard in (0, 1):
        members = {f"{n}.png": image_bytes(10 * shard + n) for n in range(3)}
        (source / f"{shard}.tar").write_bytes(tar_bytes({**members, "broken.jpg": b"<html>"}))
    (tmp_path / "names.txt").write_text("0.tar/1.png\n")
    text = f"input: {{uri: {source}, exclude: [{tmp_path / 'names.txt'}]}}\noutput: {tmp_path / 'run'}\n"
    text += f"vocabulary: [cat, dog]\nmodel: {{name: {checkpoint}}}\nunit: {{max_images: 2}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    return tmp_path / "mine.yaml"


def test_a_run_made_without_ray_is_complete_and_has_the_fingerprint_of_label(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert without_ray.main([str(config), "--threads", "1"]) == 0
    assert "4 units of 2 shards" in capsys.readouterr().out
    assert main(["status", str(tmp_path / "run"), "--verify"]) == 0
    assert "labeled 5, decode_error 2, removed 1" in capsys.readouterr().out
    run = open_run(str(tmp_path / "run"))
    assert run is not None
    run.require_fingerprint(resolve_job(load_config(str(config))).fields)


def test_a_folder_of_image_files_is_labeled_without_ray(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(image_bytes(number))
    output = f"{tmp_path / 'run'}"
    text = f"input: {tmp_path / 'images'}\noutput: {output}\nvocabulary: [cat, dog]\nmodel: {{name: {checkpoint}}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert without_ray.main([str(tmp_path / "mine.yaml"), "--threads", "1"]) == 0
    assert main(["status", output, "--verify"]) == 0
    assert "labeled 3" in capsys.readouterr().out


def test_without_chromium_one_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("selenium")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert pictures.main([str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said == "benchmarks.pictures: no Chromium on this machine: apt-get install chromium chromium-driver\n"
    assert not (tmp_path / "out").exists(), "nothing was labeled for nothing"


def test_a_picture_keeps_every_color() -> None:
    noise = np.random.default_rng(0).integers(170, 200, (30, 40, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).convert("RGBA").save(whole, "PNG")
    kept = Image.open(io.BytesIO(pictures.true_colors(whole.getvalue())))
    assert kept.mode == "RGB"
    assert np.array_equal(np.asarray(kept), noise)
