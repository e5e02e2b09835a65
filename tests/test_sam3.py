"""SAM 3 the whole way: names to boxes to masks on Ray, as transformers computes them; and what it refuses."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from rich.console import Console

from labeler import images
from labeler.checkpoints import resolve
from labeler.cli import main
from labeler.config import Config, make_config
from labeler.errors import Refused
from labeler.labeling.recipe import detector_recipe
from labeler.labeling.resolve import resolve_job
from labeler.pipeline.label import label
from labeler.prompts.clip_tokenizer import ClipTokenizer
from labeler.prompts.sam3.plan import PhrasePasses, TokenizedPhrase
from labeler.runs import open_run, read_snapshot
from labeler.segmenters import Sam
from labeler.training import shapes
from tests.clip_files import write_clip_files
from tests.closed_sets import Poisoned
from tests.inputs import image_bytes
from tests.sam3_model import PHRASES, SIDE, redraw, sam3_checkpoint, sam3_config

NAMES = ["cat", "dog", "traffic light"]
SIDES = ("x_min", "y_min", "x_max", "y_max")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model for videos, as the published ones are, of which the detector is read."""
    target = tmp_path_factory.mktemp("sam3")
    words = write_clip_files(target, [word for name in NAMES for word in name.split()])
    config = sam3_config()
    config.text_config.vocab_size = words
    model = transformers.Sam3Model(config)
    redraw(model)
    with torch.no_grad():  # so that there is something, and its place depends on the image
        model.detr_decoder.presence_head.layer3.bias.fill_(4)
    sam3_checkpoint(target, model)
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("in")
    for number, (width, height) in enumerate([(120, 90), (120, 90), (60, 200), (96, 64)]):
        (target / f"{number}.png").write_bytes(image_bytes(number, width=width, height=height))
    return target


def config_of(folder: Path, source: Path, output: Path, *overrides: str) -> Config:
    values = {"input": str(source), "output": str(output), "vocabulary": NAMES, "model": {"name": str(folder)}}
    return make_config(values, ["detect.nms_iou=1", "ray.cpus_per_worker=1", *overrides])


def of_transformers(model: Any, folder: Path, data: bytes) -> list[tuple[float, int, list[float]]]:
    """(score, category id, xyxy) of one image: each name alone, by transformers' forward and post-processing."""
    pixels = images.decode(data).pixels
    ready = Sam(folder, device="cpu", phrases=PhrasePasses((TokenizedPhrase(*PHRASES[0]),)))
    tokenizer, rows = ClipTokenizer.load(folder), []
    for number, name in enumerate(NAMES, 1):
        ids = torch.tensor([tokenizer.ids(name)])
        with torch.no_grad():
            out = model(
                pixel_values=ready._normalized(ready.prepare(pixels)),
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
            )
        scores = out.pred_logits[0].sigmoid() * out.presence_logits[0].sigmoid()
        height, width = pixels.shape[:2]
        boxes = np.clip((out.pred_boxes[0] * torch.tensor([width, height] * 2)).numpy(), 0, [width, height] * 2)
        rows += [(float(s), number, b.tolist()) for s, b in zip(scores, boxes, strict=True) if s >= 0.05]
    return sorted(row for row in rows if row[2][2] > row[2][0] and row[2][3] > row[2][1])[::-1]


@pytest.mark.usefixtures("local_ray")
def test_names_become_boxes_and_masks_as_transformers_computes_them(
    folder: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    masks = [f"masks.model={folder}", "masks.threshold=0.05"]
    outcome = label(config_of(folder, source, output, *masks), console=Console(file=io.StringIO()))
    assert outcome.report.statuses == {"labeled": 4}
    run = open_run(str(output))
    assert run is not None
    model = transformers.Sam3Model.from_pretrained(folder).eval()
    boxes = drawn = 0
    for row in (row for table in read_snapshot(run).tables() for row in table.to_pylist()):
        expected = of_transformers(model, folder, (source / row["image_key"]).read_bytes())
        found = row["detections"]
        assert [d["category_id"] for d in found] == [category for _, category, _ in expected]
        np.testing.assert_allclose([d["score"] for d in found], [score for score, _, _ in expected], atol=1e-4)
        np.testing.assert_allclose(
            [[d[side] for side in SIDES] for d in found], [box for _, _, box in expected], atol=0.05
        )
        boxes, drawn = boxes + len(found), drawn + sum(d["mask"] is not None for d in found)
    assert boxes > 20
    assert drawn > 10
    fields = run.manifest.fingerprint_fields
    assert (fields["family"], fields["family_version"], fields["image_size"]) == ("sam3", 1, [SIDE, SIDE])
    assert fields["masks.prompts"] == fields["prompts"]
    assert run.prompts() == resolve_job(config_of(folder, source, output)).plan
    target = tmp_path / "coco.json"
    assert main(["export", str(output), "--to", "coco", "--threshold", "0.05", "--output", str(target)]) == 0
    assert 0 < len(json.loads(target.read_text())["annotations"]) <= boxes
    capsys.readouterr()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vocabulary={categories: [cat, {name: bag, negative: true}]}", "a negative competes with nothing in SAM 3"),
        (f"vocabulary=[cat, {' '.join('abcdefgh' * 5)}]", "tokens with start and end; SAM 3 takes 32"),
        ("prompts.max_tokens=64", "prompts.max_tokens: checkpoint .* is of the family sam3, which has no such option"),
    ],
)
def test_what_it_does_not_have_is_refused_by_name(
    folder: Path, source: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(Refused) as refused:
        resolve_job(config_of(folder, source, tmp_path / "run", override))
    assert re.search(message, str(refused.value))


def test_a_checkpoint_for_videos_is_its_detector(folder: Path, tmp_path: Path) -> None:
    whole = transformers.Sam3VideoConfig(detector_config=sam3_config().to_dict()).to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**whole, "architectures": ["Sam3VideoModel"]}))
    write_clip_files(tmp_path, NAMES)
    found = resolve(tmp_path, weights=False)
    assert (found.family.name, found.architecture, found.rule.size) == ("sam3", "Sam3Model", (SIDE, SIDE))
    assert found.rule.mean == (0.5, 0.5, 0.5)


@pytest.mark.slow  # three runs and a derived one
@pytest.mark.usefixtures("local_ray")
def test_fifty_scenes_are_labeled_swapped_names_swap_ids_and_what_is_not_finite_is_an_error(
    folder: Path, tmp_path: Path
) -> None:
    drawn = shapes.write_data_set(str(tmp_path / "scenes"), images=50, seed=5, sizes=[(160, 120)])
    source = Path(drawn.shards[0]).parent

    def run(output: str, names: list[str], **options: Any) -> list[dict[str, Any]]:
        config = config_of(folder, source, tmp_path / output, f"vocabulary={json.dumps(names)}")
        label(config, console=Console(file=io.StringIO()), **options)
        return rows_of(tmp_path / output)

    rows, swapped = run("run", NAMES), run("swapped", [NAMES[1], NAMES[0], NAMES[2]])
    assert sum(row["status"] == "labeled" for row in rows) >= 40
    assert {1, 2, 3} <= {d["category_id"] for row in rows for d in row["detections"]}
    for row, other in zip(rows, swapped, strict=True):
        ids = [{1: 2, 2: 1, 3: 3}[d["category_id"]] for d in row["detections"]]
        assert [d["category_id"] for d in other["detections"]] == ids
    config = config_of(folder, source, tmp_path / "poisoned")
    poisoned = run("poisoned", NAMES, make_detector=Poisoned(detector_recipe(resolve_job(config), threads=1)))
    assert {row["status"] for row in poisoned} == {"detect_error"}  # never "empty"
    assert main(["mask", str(tmp_path / "run"), f"masks.model={folder}", "masks.threshold=0.05"]) == 0
    masked = rows_of(tmp_path / "run-masks")
    assert [row["image_key"] for row in masked] == [row["image_key"] for row in rows]
    assert sum(d["mask"] is not None for row in masked for d in row["detections"]) > 50


def rows_of(output: Path) -> list[dict[str, Any]]:
    run = open_run(str(output))
    assert run is not None
    rows = [row for table in read_snapshot(run).tables() for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["image_key"])
