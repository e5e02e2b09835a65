"""What can be done with a run of names per image later, without Ray: retry, mask, revise, extend, two jobs at once."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from labeler.cli import main
from labeler.config import Config
from labeler.labeling.resolve import plan_input, resolve_job
from labeler.labels.records import ALL_NAMES
from labeler.pipeline.session import new_run
from labeler.runs import Run, open_run, read_snapshot
from labeler.runs.create import create_run
from labeler.runs.report import build_report
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.labeled_here import extend_here, label_here, mask_here, retry_here, work
from tests.segmenter_parts import tiny_sam
from tests.test_labeling_names import config_of, middle_score, rows_of
from tests.waiting import wait_until

LARGE, NEW = 1, 2  # rows: an image of more pixels than `FEW`, and one that the first run does not have
FEW = 2000


def dear_config(folder: Path, cheap: Run, checkpoint: Path, output: str, **more: Any) -> Config:
    prompts = {"from": cheap.uri, "from_score": middle_score(rows_of(cheap))}
    return config_of(folder, output, checkpoint, prompts=prompts, **more)


@pytest.fixture
def cheap(tmp_path: Path, checkpoint: Path) -> Run:
    """Of two images in `in`, which has a third one by now."""
    members = {"0.png": image_bytes(3), "1.png": image_bytes(4, width=80, height=60)}
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").write_bytes(tar_bytes(members))
    small = {"image_size": {"shortest_edge": 64, "longest_edge": 96}}
    cheap = label_here(config_of(tmp_path, "cheap", checkpoint, detect=small))
    (tmp_path / "in/0.tar").write_bytes(tar_bytes(members | {"2.png": image_bytes(5)}))
    return cheap


def test_an_image_that_is_retried_is_asked_for_the_names_that_the_first_run_found_in_it(
    tmp_path: Path, checkpoint: Path, cheap: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"score_floor": 0.0, "max_detections": 0, "max_pixels": FEW}
    run = label_here(dear_config(tmp_path, cheap, checkpoint, "few", detect=few))
    assert [row["status"] for row in rows_of(run)] == ["labeled", "too_large", "labeled"]
    again = retry_here(run, ["too_large"], str(tmp_path / "again"), "detect.max_pixels=10000")
    whole = label_here(dear_config(tmp_path, cheap, checkpoint, "whole"))
    assert rows_of(again) == rows_of(whole)
    assert 0 < len(rows_of(again)[LARGE]["asked"]) < len(NAMES)

    shutil.rmtree(cheap.uri)
    capsys.readouterr()
    command = ["retry", run.uri, "--status", "too_large", "--output", str(tmp_path / "later")]
    assert main([*command, "detect.max_pixels=10000"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "is not a labeler run" in said
    assert not (tmp_path / "later").exists()


def test_masks_are_made_for_its_boxes_and_its_rows_still_say_what_they_were_asked_for(
    tmp_path: Path, checkpoint: Path, cheap: Run
) -> None:
    masks = f"masks.model={tiny_sam('sam2')}"
    run = label_here(dear_config(tmp_path, cheap, checkpoint, "dear", detect={"score_floor": 0.0, "max_detections": 9}))
    shutil.rmtree(cheap.uri)  # which boxes there are is settled
    masked = mask_here(run, str(tmp_path / "masked"), masks)
    rows = rows_of(masked)
    assert all(found["mask"] for row in rows for found in row["detections"])
    assert rows[NEW]["error"] == ALL_NAMES
    assert build_report(read_snapshot(masked)).errors[ALL_NAMES] == 1
    for row, before in zip(rows, rows_of(run), strict=True):
        kept = [{**found, "mask": None} for found in row["detections"]]
        assert {**row, "detections": kept} == before


def test_revise_refuses_it_in_one_line(
    tmp_path: Path, checkpoint: Path, cheap: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run = label_here(dear_config(tmp_path, cheap, checkpoint, "dear"))
    (tmp_path / "names.txt").write_text("\n".join(NAMES[1:]))
    capsys.readouterr()
    command = ["revise", run.uri, "--vocabulary", str(tmp_path / "names.txt"), "--output", str(tmp_path / "revised")]
    assert main(command) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "has the columns asked, which a revision cannot carry over" in said
    assert not (tmp_path / "revised").exists()


def test_images_that_are_added_later_are_asked_for_what_the_first_run_has_found_in_them(
    tmp_path: Path, checkpoint: Path
) -> None:
    write_tars(tmp_path / "in", shards=1, images=2)
    write_tars(tmp_path / "in", shards=1, images=2, first=1)
    cheap = label_here(config_of(tmp_path, "cheap", checkpoint))
    (tmp_path / "in/00001.tar").rename(tmp_path / "later.tar")
    config = dear_config(tmp_path, cheap, checkpoint, "dear")
    run = label_here(config)
    (tmp_path / "later.tar").rename(tmp_path / "in/00001.tar")
    write_tars(tmp_path / "in", shards=1, images=1, first=2)
    extend_here(run, config)
    whole = label_here(dear_config(tmp_path, cheap, checkpoint, "whole"))
    assert rows_of(run) == rows_of(whole)
    assert [row["asked"] is None for row in rows_of(run)] == [False] * 4 + [True]


def work_once_all_are_ready(folder: Path, config: Config, jobs: int) -> None:
    job, run = resolve_job(config), open_run(config.output.uri)
    assert run is not None
    (folder / f"ready-{os.getpid()}").touch()
    wait_until(lambda: len(list(folder.glob("ready-*"))) == jobs)
    work(run, job)


@pytest.mark.slow  # two processes
def test_two_jobs_at_once_make_the_rows_of_one(tmp_path: Path, checkpoint: Path) -> None:
    write_tars(tmp_path / "in", shards=2, images=4)
    cheap = label_here(config_of(tmp_path, "cheap", checkpoint))
    whole = label_here(dear_config(tmp_path, cheap, checkpoint, "whole"))
    config = dear_config(tmp_path, cheap, checkpoint, "both")
    run = create_run(config.output.uri, new_run(resolve_job(config), plan=plan_input(config)))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for job in [pool.submit(work_once_all_are_ready, tmp_path, config, 2) for _ in range(2)]:
            job.result()
    assert rows_of(run) == rows_of(whole)
