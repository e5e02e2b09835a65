"""Tiled images on Ray: a driver that is killed and started again, and a tile that kills its worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from labeler.config import load_config
from labeler.runs import open_run, read_snapshot
from labeler.runs.report import build_report
from tests.detector_parts import photo
from tests.inputs import tar_bytes
from tests.labeled_here import label_here
from tests.own_detectors import write_module, write_weights
from tests.processes import with_environment
from tests.tiled_parts import FINDS_CORNERS, item
from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parent.parent
SIZES = ((100, 120), (60, 64), (100, 120), (40, 110))  # height, width: 10 views, 1, 10, 4
SHARDS, IMAGES, DEADLY = 4, 12, (2, 8)
DIES = FINDS_CORNERS.replace(
    "        if (image == 255)", "        import os, time\n        time.sleep(0.02)\n"
    "        if not image.any():\n            os._exit(1)\n        if (image == 255)"
)  # fmt: skip


def pixels_of(shard: int, number: int) -> np.ndarray:
    height, width = SIZES[number % len(SIZES)]
    pixels = photo(shard * IMAGES + number, 120, 160)[:height, :width].copy()
    if (shard, number) == DEADLY:
        pixels[36:100, 56:120] = 0  # all of one tile, and a part of others
    return pixels


def write_input(folder: Path, *, deadly: bool) -> Path:
    folder.mkdir()
    for shard in range(SHARDS):
        members = {f"{n:02d}.png": item(n, pixels_of(shard, n)).data or b"" for n in range(IMAGES)}
        if shard == DEADLY[0] and not deadly:
            members[f"{DEADLY[1]:02d}.png"] = b"no image"
        (folder / f"{shard}.tar").write_bytes(tar_bytes(members))
    return folder


def write_config(folder: Path, source: Path, output: str) -> Path:
    values = {
        "input": str(source),
        "output": str(folder / output),
        "vocabulary": ["cat", "dog"],
        "model": {"name": str(write_weights(folder / "weights")), "family": "deadly_corners", "device": "cpu"},
        "detect": {"tile": 64, "tile_overlap": 0.5, "nms_iou": 0.5, "max_detections": 60},
        "unit": {"max_images": 4},
        "ray": {"cpus_per_worker": 1, "gpus_per_worker": 0, "read_tasks": 1},
    }
    (folder / f"{output}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{output}.yaml"


def rows_of(uri: str) -> list[dict[str, Any]]:
    run = open_run(uri)
    assert run is not None
    return [row for table in read_snapshot(run).tables() for row in table.to_pylist()]


@pytest.mark.slow  # two starts of Ray, and a process for the image that kills
def test_a_killed_job_goes_on_to_the_rows_of_this_process_and_an_image_with_a_deadly_tile_is_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "deadly_corners", DIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = write_config(tmp_path, write_input(tmp_path / "in", deadly=True), "run")
    mark = f"TILED_TEST={tmp_path}"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "TILED_TEST": str(tmp_path)}
    command = [sys.executable, "-m", "labeler.cli", "label", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    units = tmp_path / "run" / "labels"
    wait_until(lambda: process.poll() is not None or len(list(units.rglob("*.parquet"))) > 1)
    process.kill()
    process.communicate()
    wait_until(lambda: not with_environment(mark))  # its Ray notices, and writes no more
    committed = {file: file.read_bytes() for file in units.rglob("*.parquet")}
    assert 1 < len(committed) < SHARDS * IMAGES // 4, "killed too early or too late to show anything"
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert all(file.read_bytes() == data for file, data in committed.items())

    rows = rows_of(str(tmp_path / "run"))
    label_here(load_config(write_config(tmp_path, write_input(tmp_path / "other", deadly=False), "here")))
    expected = rows_of(str(tmp_path / "here"))
    assert len(rows) == len(expected) == SHARDS * IMAGES
    dead = DEADLY[0] * IMAGES + DEADLY[1]
    assert (rows[dead]["status"], expected[dead]["status"]) == ("quarantined", "decode_error")
    compared = ("image_key", "shard_id", "index", "digest", "width", "height", "status", "error", "detections")
    for number, (got, wanted) in enumerate(zip(rows, expected, strict=True)):
        if number != dead:
            assert [got[name] for name in compared] == [wanted[name] for name in compared]
    assert {row["status"] for number, row in enumerate(rows) if number != dead} == {"labeled"}
    run = open_run(str(tmp_path / "run"))
    assert run is not None
    views = SHARDS * IMAGES // 4 * (10 + 1 + 10 + 4)
    assert views - 10 <= build_report(read_snapshot(run)).passes <= views
