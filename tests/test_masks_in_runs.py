"""Masks through a run: labeling, config, fingerprint, images."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labeler import storage
from labeler.cli import main
from labeler.config import Config, make_config
from labeler.errors import Refused
from labeler.labeling.recipe import LabelerRecipe, labeler_recipe, segmenter_recipe
from labeler.labeling.resolve import resolve_job
from labeler.labeling.unit import MASKS_LOST, UnitLabeler
from labeler.labels.contact_sheet import Tile, colour_of, draw_contact_sheet
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import rows_to_table
from labeler.segmenters import Sam
from labeler.shards import Item, Unit
from tests.conftest import NAMES
from tests.inputs import image_bytes, write_tars
from tests.label_runs import row, write_run
from tests.mask_parts import Filling, filled
from tests.segmenter_parts import broken_sam, tiny_sam
from tests.stub_detector import StubDetector


def item(index: int, data: bytes | None, error: str | None = None) -> Item:
    return Item(f"{index}.png", index, "u", None, None, data, error)


def labeler(segmenter: Any, **options: Any) -> UnitLabeler:
    return UnitLabeler(StubDetector(), segmenter=segmenter, **{"decode_threads": 2, "images_per_batch": 2, **options})


# ---- labeling


def test_no_items_make_no_rows_with_a_segmenter_either() -> None:
    assert labeler(Filling()).label("000000", [])[0] == []


def test_every_item_has_one_row_in_its_place_and_every_box_its_mask() -> None:
    items = [item(i, image_bytes(i, width=40 + i)) for i in range(9)]
    items[3], items[5] = item(3, b"no image"), item(5, None, "truncated member")
    rows, seconds = labeler(Filling()).label("000000", items)
    assert [row.index for row in rows] == list(range(9))
    statuses = [row.status for row in rows]
    assert statuses == ["labeled"] * 3 + ["decode_error", "labeled", "read_error"] + ["labeled"] * 3
    for made in rows:
        if made.status == "labeled":
            mask = made.detections.mask_of(0)
            assert mask is not None
            assert (mask.height, mask.width, mask.area) == (30, made.width, 15 * (made.width // 2))  # type: ignore[operator]
    assert seconds.mask_s > 0


def test_images_without_detections_never_meet_the_segmenter() -> None:
    class Blind(StubDetector):
        def detect_prepared(self, batch: Sequence[Any]) -> list[Any]:
            return [ValueError("non-finite scores") if i else Detections.empty() for i in range(len(batch))]

    class Untouchable(Filling):
        def sketch(self, image: Any, detections: Detections) -> Any:
            raise AssertionError("nothing to segment")

    shy = UnitLabeler(Blind(), segmenter=Untouchable(), decode_threads=1, images_per_batch=2)
    rows, _ = shy.label("000000", [item(i, image_bytes(i)) for i in range(2)])
    assert [row.status for row in rows] == ["empty", "detect_error"]


def test_lost_masks_leave_the_row_labeled_and_are_named() -> None:
    rows, _ = labeler(Filling(loses_width=50)).label(
        "000000", [item(0, image_bytes(0, width=50)), item(1, image_bytes(1, width=60))]
    )
    assert [(row.status, row.error) for row in rows] == [("labeled", MASKS_LOST), ("labeled", None)]
    assert [row.detections.count_masks() for row in rows] == [0, 1]


def test_a_real_segmenter_labels_a_unit_as_it_labels_single_images() -> None:
    sam = Sam(tiny_sam("sam"), device="cpu", threads=1, threshold=0.0)
    items = [item(i, image_bytes(i, width=40 + 9 * i, height=50)) for i in range(5)]
    rows, _ = labeler(sam).label("000000", items)
    table = rows_to_table(rows)
    assert sum(found.count_masks() for found in DetectionsColumn(table).per_row(masks=True)) >= 3
    for made, one in zip(rows, items, strict=True):
        assert one.data is not None
        pixels = np.asarray(Image.open(io.BytesIO(one.data)))
        alone = sam.segment(pixels, replace(made.detections, masks=None))
        assert made.detections.mask_of(0) == alone.mask_of(0)


def test_a_segmenter_that_raises_frees_the_way_for_the_next_unit() -> None:
    class Broken(Filling):
        def draw(self, sketch: Any) -> Any:
            raise RuntimeError("broken")

    shared = labeler(Broken())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            shared.label("000000", [item(0, image_bytes(0))])


def test_few_images_wait_to_be_drawn() -> None:
    """Their logits are megabytes each."""

    class Watching(Filling):
        sketched = drawn = most = 0

        def sketch(self, image: Any, detections: Detections) -> Any:
            self.sketched += 1
            self.most = max(self.most, self.sketched - self.drawn)
            return super().sketch(image, detections)

        def draw(self, sketch: Any) -> Any:
            time.sleep(0.01)
            found = super().draw(sketch)
            self.drawn += 1
            return found

    watching = Watching()
    labeler(watching, decode_threads=1, images_per_batch=8).label(
        "000000", [item(i, image_bytes(i)) for i in range(40)]
    )
    assert watching.sketched == watching.drawn == 40
    assert watching.most <= 1 + 1


def test_a_committed_unit_says_what_made_its_masks(tmp_path: Path) -> None:
    from labeler.labels.records import parquet_to_table
    from labeler.pipeline.redo import Todo
    from labeler.pipeline.worker import WorkerSettings, commit, make_labeler
    from labeler.runs import layout
    from tests.stub_detector import MakeStub

    settings = WorkerSettings(str(tmp_path), LabelerRecipe(MakeStub(), Filling), {}, (), max_detections=5)
    made = make_labeler(settings)
    unit = Unit("000000", 0, tuple(item(i, image_bytes(i)) for i in range(3)))
    rows, seconds = made.label(unit.shard_id, unit.items)
    receipt = commit(settings, Todo(unit), rows, seconds, made.description)
    assert (receipt.detections, receipt.masks) == (3, 3)
    assert receipt.work.mask_s == seconds.mask_s > 0
    assert "masks by Filling" in receipt.engine
    table = parquet_to_table(storage.read_bytes(f"{tmp_path}/{layout.unit_file('000000', 0)}"))
    assert table.schema.metadata[b"segmenter"] == b"Filling"


def test_a_child_process_makes_masks_too(tmp_path: Path) -> None:
    from labeler.pipeline.isolation import Isolated
    from labeler.pipeline.worker import WorkerSettings
    from tests.stub_detector import MakeStub

    settings = WorkerSettings("unused", LabelerRecipe(MakeStub(), Filling), {}, (), 300)
    with Isolated(settings) as child:
        rows, seconds = child.label("000000", [item(0, image_bytes(0))])
        assert child.description["segmenter"] == "Filling"
    mask = rows[0].detections.mask_of(0)
    assert mask is not None
    assert (mask.area, seconds.mask_s > 0) == (15 * 20, True)


# ---- configuration


def config(tmp_path: Path, checkpoint: Path, **masks: Any) -> Config:
    write_tars(tmp_path / "in", shards=1, images=2)
    values = {
        "input": str(tmp_path / "in"),
        "output": str(tmp_path / "out"),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint)},
        "detect": {"score_floor": 0.0, "max_detections": 5},
    }
    return make_config(values | ({"masks": masks} if masks else {}))


def test_without_the_section_there_are_no_masks(tmp_path: Path, checkpoint: Path) -> None:
    job = resolve_job(config(tmp_path, checkpoint))
    assert (job.segmenter, segmenter_recipe(job), job.fields["masks"]) == (None, None, None)


def test_the_fingerprint_has_the_segmenter_and_what_decides_masks(tmp_path: Path, checkpoint: Path) -> None:
    plain = resolve_job(config(tmp_path, checkpoint)).fields
    given = resolve_job(config(tmp_path, checkpoint, model=str(tiny_sam("sam")))).fields
    assert {name for name in plain | given if plain.get(name) != given.get(name)} == {
        "masks", "masks.threshold", "masks.max_masks", "masks.version",
    }  # fmt: skip
    for change in ({"model": str(tiny_sam("sam2"))}, {"threshold": 0.5}, {"max_masks": 7}):
        other = resolve_job(config(tmp_path, checkpoint, **({"model": str(tiny_sam("sam"))} | change))).fields
        assert len([name for name in given if given[name] != other[name]]) == 1
    speed = {"model": str(tiny_sam("sam")), "boxes_per_batch": 3}
    assert resolve_job(config(tmp_path, checkpoint, **speed)).fields == given


def test_masks_of_images_that_are_decoded_smaller_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    drafted = config(tmp_path, checkpoint, model=str(tiny_sam("sam")))
    drafted = drafted.model_copy(update={"detect": drafted.detect.model_copy(update={"jpeg_draft": True})})
    with pytest.raises(Refused, match=r"masks need every pixel of an image: leave detect\.jpeg_draft out"):
        resolve_job(drafted)


def test_the_recipe_makes_the_segmenter_that_was_asked_for(tmp_path: Path, checkpoint: Path) -> None:
    options = {"threshold": 0.4, "max_masks": 7, "boxes_per_batch": 3}
    job = resolve_job(config(tmp_path, checkpoint, model=str(tiny_sam("sam_hq")), **options))
    recipe = segmenter_recipe(job, threads=1)
    assert recipe is not None
    sam = recipe()
    assert isinstance(sam, Sam)
    assert (sam.threshold, sam.max_masks, sam.boxes_per_batch) == (0.4, 7, 3)
    assert sam.description["segmenter"] == "SamHQModel"
    with pytest.raises(Refused, match="put the same files on every node"):
        replace(recipe, digest="other")()


@pytest.mark.parametrize(
    ("how", "said"),
    [("config", "masks.model: checkpoint .* does not run: "), ("weights", "gives masks with NaN or infinity")],
)
def test_a_segmenter_that_cannot_run_is_found_by_one_picture(
    tmp_path: Path, checkpoint: Path, how: str, said: str
) -> None:
    job = resolve_job(config(tmp_path, checkpoint, model=str(broken_sam(tmp_path / "broken", how))))
    recipe = labeler_recipe(job).of_boxes
    assert recipe is not None
    assert recipe.make_detector is None
    with pytest.raises(Refused, match=said):
        recipe()


def test_workers_are_told_to_make_masks(tmp_path: Path, checkpoint: Path) -> None:
    from ray import cloudpickle

    from labeler.pipeline.cluster import Workers
    from labeler.pipeline.session import _worker_settings

    plain = write_run(tmp_path / "run", {(0, 0): [row(0)]})
    workers = Workers(count=1, gpus=0, cpus=1)
    settings = _worker_settings(plain, resolve_job(config(tmp_path, checkpoint)), workers, None)
    assert (settings.labeler.make_segmenter, settings.metadata["segmenter_digest"]) == (None, "")
    job = resolve_job(config(tmp_path, checkpoint, model=str(tiny_sam("sam"))))
    settings = cloudpickle.loads(cloudpickle.dumps(_worker_settings(plain, job, workers, None)))
    assert isinstance(settings.labeler.make_segmenter(), Sam)
    assert job.segmenter is not None
    assert settings.metadata["segmenter_digest"] == job.segmenter.digest


def test_a_dry_run_names_the_segmenter(tmp_path: Path, checkpoint: Path) -> None:
    from labeler.trial.estimate import describe_plan

    plain, masked = (
        "\n".join(describe_plan(resolve_job(config(tmp_path, checkpoint, **masks)), []))
        for masks in ({}, {"model": str(tiny_sam("sam2"))})
    )
    assert "masks" not in plain
    assert "Sam2Model, digest" in masked


def test_a_wrong_segmenter_is_one_line_and_exit_code_2(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    values = config(tmp_path, checkpoint).model_dump(mode="json", exclude_none=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "empty").mkdir()
    cases = {
        f"masks.model={checkpoint}": "is of type mm-grounding-dino",
        f"masks.model={tmp_path / 'empty'}": "has no config.json",
        f"masks.model={tmp_path / 'none'}": "does not exist on this machine",
        "masks.threshold=0.5": "masks.model is missing",
        "masks.treshold=0.5": "did you mean threshold?",
        f"model.name={tiny_sam('sam')}": "is a SamModel, of no known family of detectors; known are grounding-dino (",
    }
    for override, problem in cases.items():
        extra = [f"masks.model={tiny_sam('sam')}"] if "treshold" in override else []
        assert main(["label", str(tmp_path / "config.yaml"), override, *extra]) == 2
        said = capsys.readouterr().err.strip()
        assert problem in said
        assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_preview_draws_masks(tmp_path: Path, checkpoint: Path) -> None:
    from labeler.trial.preview import preview

    plain = preview(resolve_job(config(tmp_path, checkpoint)), sample=2, threshold=0.0)
    masked = preview(
        resolve_job(config(tmp_path, checkpoint, model=str(tiny_sam("sam")), threshold=0.0)), sample=2, threshold=0.0
    )
    assert plain.detections == masked.detections > 0
    assert plain.png != masked.png


def test_a_mask_is_drawn_in_its_category_s_colour_where_it_is() -> None:
    grey = np.full((60, 90, 3), 128, np.uint8)
    mask = filled((10, 20, 40, 50), 60, 90)
    boxes, names = [[10, 20, 40, 50], [60, 10, 80, 30]], ["cat", "dog"]
    plain = Tile(grey, boxes, names, [0.9, 0.8])
    sheets = [
        np.asarray(Image.open(io.BytesIO(draw_contact_sheet([tile], tile_px=360)))).astype(int)
        for tile in (plain, replace(plain, masks=[mask, None]))
    ]
    rows, columns = np.nonzero((sheets[0] != sheets[1]).any(-1))
    assert columns.min() >= 8 + 4 * 10
    assert columns.max() < 8 + 4 * 40 + 1
    assert rows.min() >= 8 + 4 * 20
    assert rows.max() < 8 + 4 * 50 + 1
    colour = [int(colour_of("cat")[i : i + 2], 16) for i in (1, 3, 5)]
    blended = sheets[1][8 + 4 * 35, 8 + 4 * 25]
    assert np.allclose(blended, np.array(colour) * 110 / 255 + 128 * 145 / 255, atol=2)
