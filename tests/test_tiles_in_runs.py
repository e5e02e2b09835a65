"""Tiles through runs: configuration, fingerprint, thresholds, dry run, profile, preview, revisions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from labeler import Detector
from labeler.cli import main
from labeler.config import make_config
from labeler.errors import Refused
from labeler.labeling.recipe import labeler_here
from labeler.labeling.resolve import resolve_job
from labeler.labeling.revision import resolve_revision, revised_config
from labeler.runs import Run, read_snapshot
from labeler.runs.fitted_on import fitted_on, require_fitted_on
from labeler.shards import Item
from labeler.trial.preview import preview
from tests.detector_parts import photo
from tests.label_runs import write_run
from tests.labeled_here import label_here, revise_here

SIZES = ((100, 140), (64, 64), (70, 90))  # height, width: 2 x 3 tiles, none, 2 x 2 tiles
VIEWS = 7 + 1 + 5
TILES = {"tile": 64, "tile_overlap": 0.3}
FIELDS = {"detect.tile": 64, "detect.tile_overlap": 0.3, "detect.tile_min_side": 64, "tiling_version": 1}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, (height, width) in enumerate(SIZES):
        Image.fromarray(photo(number, 120, 160)[:height, :width]).save(folder / f"{number}.png")
    return folder


def values_of(folder: Path, checkpoint: Path, output: str = "run", **detect: Any) -> dict[str, Any]:
    return {
        "input": str(folder / "in"),
        "output": str(folder / output),
        "vocabulary": ["cat", "dog", "bus"],
        "model": {"name": str(checkpoint), "device": "cpu"},
        "prompts": {"max_categories": 2},
        "ray": {"cpus_per_worker": 1},
        "detect": {"score_floor": 0.0, "max_detections": 50, **detect},
    }


def written(folder: Path, values: dict[str, Any]) -> str:
    (folder / "c.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "c.yaml")


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [row for table in read_snapshot(run).tables() for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["detect.tile=63"], "detect.tile: Input should be greater than or equal to 64, got 63"),
        (["detect.tile=-1"], "detect.tile: Input should be greater than or equal to 64"),
        (["detect.tile=many"], "detect.tile: must be a whole number of at least 64, got 'many'"),
        (["detect.tile=64", "detect.tile_overlap=0.91"], "tile_overlap: Input should be less than or equal to 0.9"),
        (["detect.tile=64", "detect.tile_overlap=-0.1"], "tile_overlap: Input should be greater than or equal to 0"),
        (["detect.tile=64", "detect.tile_overlap=.nan"], "tile_overlap: Input should be"),
        (["detect.tile=64", "detect.max_tiles=1"], "detect.max_tiles: Input should be greater than 1"),
        (["detect.tile=64", "detect.max_tiles=10001"], "detect.max_tiles: Input should be less than or equal to 10000"),
        (["detect.tile_overlap=0.3"], "tile_overlap: only for runs with tiles; set detect.tile, or leave it out"),
        (["detect.max_tiles=9", "detect.tile_min_side=900"], "tile_min_side, max_tiles: only for runs with tiles"),
        (["detect.tile=64", "detect.tile_min_side=63"], "tile_min_side 63 is less than tile 64"),
    ],
)  # fmt: skip
def test_tiles_that_make_no_sense_are_refused_in_one_line_before_anything_is_read(
    options: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = values_of(tmp_path, tmp_path / "no checkpoint")
    assert main(["label", written(tmp_path, values), *options]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_only_runs_with_tiles_have_their_fields_in_the_fingerprint(tmp_path: Path, checkpoint: Path) -> None:
    def fields(**detect: Any) -> dict[str, Any]:
        return resolve_job(make_config(values_of(tmp_path, checkpoint, **detect))).fields

    plain, tiled = fields(), fields(**TILES)
    assert not [name for name in plain if "til" in name]
    added = {name: value for name, value in tiled.items() if name not in plain}
    assert added == {**FIELDS, "detect.max_tiles": 1000}
    changed = {name for name in plain if plain[name] != tiled[name]}
    assert changed == {"unit.max_images"}  # of what takes 20 s, were each image a photograph
    assert fields(**TILES, tile_min_side=200)["detect.tile_min_side"] == 200


def test_thresholds_of_other_tiles_are_refused_by_name(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", {})
    tiled = write_run(tmp_path / "tiled", {}, fields=FIELDS)
    others = write_run(tmp_path / "others", {}, fields={**FIELDS, "detect.tile": 96, "detect.tile_min_side": 96})
    require_fitted_on(fitted_on(plain), plain, source="t.yaml")
    require_fitted_on(fitted_on(tiled), tiled, source="t.yaml")
    require_fitted_on({}, tiled, source="by hand")
    for fitted, run, names in (
        (plain, tiled, "detect.tile, detect.tile_overlap, detect.tile_min_side, tiling_version"),
        (tiled, plain, "detect.tile, detect.tile_overlap, detect.tile_min_side, tiling_version"),
        (tiled, others, "detect.tile, detect.tile_min_side"),
    ):
        with pytest.raises(Refused, match=f"were fitted on another {re.escape(names)} than run"):
            require_fitted_on(fitted_on(fitted), run, source="t.yaml")


def test_a_unit_is_sized_as_if_each_image_were_a_photograph(tmp_path: Path, checkpoint: Path) -> None:
    job = resolve_job(make_config(values_of(tmp_path, checkpoint, tile=800)))
    assert job.plan.passes == 2
    assert job.config.unit.images == 800 // (2 * (6 * 5 + 1))
    assert job.unit_seconds <= 20
    assert resolve_job(make_config(values_of(tmp_path, checkpoint, tile=64))).config.unit.images == 1


def dry_run(config: str, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    assert main(["label", config, "--dry-run", "--time-images", "0", *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_dry_run_says_which_images_are_tiled_and_the_passes(
    source: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, values_of(tmp_path, checkpoint))
    plain = dry_run(config, capsys)
    assert any(line.startswith("passes   2 per image (") for line in plain)
    assert not any(line.startswith("tiles ") for line in plain)
    tiled = dry_run(config, capsys, "detect.tile=64", "detect.tile_overlap=0.3")
    assert any(line.startswith("passes   2 per view of an image (") for line in tiled)
    at = tiled.index(
        "tiles    64 x 64 pixels, overlap 30%, of images with a side of more than 64 pixels; one view more of each "
        "such image as a whole"
    )
    assert tiled[at + 1] == (
        "         2 of 3 sampled images are tiled: 1 to 7 views of an image, on the mean 4.3 views and 8.7 passes"
    )
    none = dry_run(config, capsys, "detect.tile=640")
    assert "         none of 3 sampled images is that large: no image of them is tiled" in none
    many = dry_run(config, capsys, "detect.tile=64", "detect.max_tiles=4")
    assert (
        "         1 of 3 sampled images have more than detect.max_tiles=4 tiles: they get the status too_large" in many
    )
    assert not (tmp_path / "run").exists()


def test_a_detector_in_a_program_looks_at_tiles_as_a_run_does(source: Path, tmp_path: Path, checkpoint: Path) -> None:
    values = values_of(tmp_path, checkpoint, **TILES)
    files = sorted(source.iterdir())
    items = [Item(file.name, n, "u", None, None, file.read_bytes()) for n, file in enumerate(files)]
    rows, _ = labeler_here(resolve_job(make_config(values))).label("000000", items)
    options = {"detect": {**values["detect"], "max_tiles": 6}, "prompts": values["prompts"]}
    detector = Detector.load(checkpoint, values["vocabulary"], device="cpu", threads=1, **options)
    for found, row in zip(detector.detect(files), rows, strict=True):
        assert len(found) > 0
        np.testing.assert_array_equal(found.boxes, row.detections.boxes)
        np.testing.assert_array_equal(found.scores, row.detections.scores)
    with pytest.raises(Refused, match=r"image 1: too large: 200 x 200 is 25 tiles of 64 pixels, the limit is 6"):
        detector.detect([np.zeros((50, 50, 3), np.uint8), np.zeros((200, 200, 3), np.uint8)])


@pytest.mark.slow  # several labelings of the sample, and the peak
def test_a_profile_counts_the_passes_of_tiles(
    source: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, values_of(tmp_path, checkpoint, **TILES))
    assert main(["label", config, "--profile", "--time-images", "3"]) == 0
    said = capsys.readouterr().out
    assert f"3 images, {VIEWS / 3:.1f} views each on the mean, 2 passes each, on cpu" in said
    whole = next(line for line in said.splitlines() if line.startswith("sum "))
    ms_image, ms_pass = (float(number) for number in whole.split()[2:4])
    assert ms_pass == pytest.approx(ms_image / (2 * VIEWS / 3), abs=0.06)


@pytest.mark.slow  # three runs and a preview
def test_a_run_with_tiles_is_previewed_and_revised_to_the_rows_of_a_fresh_run(
    source: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Boxes of all views are merged once, so that what the kept chunks found is what they find in any company."""
    config = make_config(values_of(tmp_path, checkpoint, max_detections=0, **TILES))
    parent = label_here(config)
    shown = preview(resolve_job(config), sample=3, threshold=0.0)
    assert shown.detections == sum(len(row["detections"]) for row in rows_of(parent)) > 0
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\ntraffic light")
    revision = resolve_revision(parent, revised_config(parent, str(names), str(tmp_path / "revised"), ()))
    assert revision.job.only == (1,)
    assert "1 per view of an image with revise" in revision.lines()[1]
    revised = revise_here(parent, revision)
    fresh_config = make_config(
        {**values_of(tmp_path, checkpoint, "fresh", max_detections=0, **TILES), "vocabulary": str(names)}
    )
    fresh = label_here(fresh_config, plan=revision.job.plan)
    assert rows_of(revised) == rows_of(fresh)
    assert [row["status"] for row in rows_of(fresh)] == ["labeled"] * 3
    other = make_config({**values_of(tmp_path, checkpoint, "run", max_detections=0)})
    with pytest.raises(Refused) as refused:
        parent.require_fingerprint(resolve_job(other).fields)
    assert {line.split(":")[0].split()[0] for line in refused.value.problems} >= {"detect.tile", "tiling_version"}
    truth = {
        "images": [{"id": 1, "file_name": "0.png", "width": 140, "height": 100}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 30, 30], "area": 900, "iscrowd": 0}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert main(["evaluate", parent.uri, "--annotations", str(tmp_path / "truth.json"), "--categories-by-name"]) == 0
    assert ", tiles of 64 pixels" in capsys.readouterr().out
