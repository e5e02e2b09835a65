"""SAM 3's masks against the transformers forward pass and post-processing, for its own boxes and for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam3Model

from labeler.labels.boxes import iou
from labeler.labels.detections import Detections
from labeler.prompts.sam3.family import Sam3Family
from labeler.prompts.sam3.plan import TOKENS, PhrasePasses, TokenizedPhrase
from labeler.segmenters import Sam
from tests.sam3_model import PHRASES, SIDE, sam3_checkpoint
from tests.segmenter_parts import pattern

PLAN = PhrasePasses(tuple(TokenizedPhrase(*phrase) for phrase in PHRASES))
HEIGHT, WIDTH = 90, 130


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sam3_checkpoint(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> list[dict[str, torch.Tensor]]:
    """Scores, boxes and masks of each phrase, by transformers' forward and post-processing without a threshold."""
    model = Sam3Model.from_pretrained(folder).eval()
    sam = Sam(folder, device="cpu", threads=1, phrases=PLAN)
    pixels = sam._normalized(sam.prepare(pattern(HEIGHT, WIDTH)))
    found = []
    for _, _, ids in PHRASES:
        gap = TOKENS - len(ids)
        with torch.inference_mode():
            out = model(
                pixel_values=pixels,
                input_ids=torch.tensor([[*ids, *[2] * gap]]),
                attention_mask=torch.tensor([[1] * len(ids) + [0] * gap]),
            )
        # Theirs resizes probabilities, labeler logits: the border of a mask is where both are at their middle only in
        # the limit, so the reference is made of logits, as SAM's and SAM 2's own processors do.
        masks = torch.nn.functional.interpolate(out.pred_masks, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        boxes = out.pred_boxes[0] * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        scores = out.pred_logits[0].sigmoid() * out.presence_logits[0].sigmoid()
        found.append({"masks": masks[0], "boxes": boxes, "scores": scores})
    return found


def detections_of(boxes: Any, category_ids: list[int]) -> Detections:
    count = len(category_ids)
    return Detections.of(
        np.asarray(boxes, np.float32),
        np.linspace(0.9, 0.5, count).astype(np.float32),
        np.array(category_ids, np.int32),
        np.zeros(count, np.int16),
    )


def same_inside(found: Detections, row: int, logits: torch.Tensor) -> float:
    """The part of the pixels of a box that its mask and the reference agree on."""
    mask = found.mask_of(row)
    x_min, y_min, x_max, y_max = (int(side) for side in found.boxes[row])
    drawn = np.zeros((HEIGHT, WIDTH), bool) if mask is None else mask.decode().astype(bool)
    window = np.s_[y_min:y_max, x_min:x_max]
    return float((drawn[window] == (logits > 0).numpy()[window]).mean())


def test_its_own_boxes_get_the_masks_that_transformers_draws(folder: Path, theirs: list[dict[str, Any]]) -> None:
    sam = Sam(folder, device="cpu", threads=1, threshold=0.0, phrases=PLAN)
    wanted = [(number, query) for number in range(len(PHRASES)) for query in (0, 5, 11)]
    boxes = [theirs[number]["boxes"][query].numpy() for number, query in wanted]
    found = sam.segment(pattern(HEIGHT, WIDTH), detections_of(boxes, [PHRASES[number][0] for number, _ in wanted]))
    areas = []
    for row, (number, query) in enumerate(wanted):
        if PHRASES[number][0] == 3:
            continue  # two phrases: below
        assert same_inside(found, row, theirs[number]["masks"][query]) > 0.999
        mask = found.mask_of(row)
        areas.append(0 if mask is None else int(mask.decode().sum()))
        if mask is not None:
            assert mask.quality == pytest.approx(float(theirs[number]["scores"][query]), abs=1e-4)
    assert len(set(areas)) > 3


def test_a_box_gets_the_mask_of_the_phrase_that_finds_it_best(folder: Path, theirs: list[dict[str, Any]]) -> None:
    """Category 3 has two phrases; the boxes of the second are not those of the first."""
    sam = Sam(folder, device="cpu", threads=1, threshold=0.0, phrases=PLAN)
    box = theirs[3]["boxes"][4].numpy()
    number = max((2, 3), key=lambda n: iou(box[None], theirs[n]["boxes"].numpy()).max())
    query = int(iou(box[None], theirs[number]["boxes"].numpy()).argmax())
    found = sam.segment(pattern(HEIGHT, WIDTH), detections_of([box], [3]))
    assert number == 3
    assert same_inside(found, 0, theirs[number]["masks"][query]) > 0.999


def test_a_box_that_no_phrase_of_its_category_finds_has_no_mask(folder: Path, theirs: list[dict[str, Any]]) -> None:
    sam = Sam(folder, device="cpu", threads=1, threshold=0.0, phrases=PLAN)
    nowhere = [1, 1, 4, 4]
    assert iou([nowhere], theirs[0]["boxes"].numpy()).max() < 0.5
    drawn = sam.draw(sam.sketch(sam.prepare(pattern(HEIGHT, WIDTH)), detections_of([nowhere], [1])))
    assert (drawn.lost, drawn.detections.masks) == (0, None)


def test_one_pass_a_phrase_serves_all_boxes_of_a_category(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = Sam(folder, device="cpu", threads=1, threshold=0.0, phrases=PLAN)
    looked: list[int] = []
    look = sam._forward._look  # type: ignore[union-attr]
    monkeypatch.setattr(sam._forward, "_look", lambda image, number: (looked.append(number), look(image, number))[1])
    boxes = [[10 * n, 5 * n, 10 * n + 30, 5 * n + 30] for n in range(9)]
    sam.segment(pattern(HEIGHT, WIDTH), detections_of(boxes, [1, 2, 1, 2, 1, 1, 2, 1, 1]))
    assert looked == [0, 1]  # nothing of category 3 is there: its phrases are not asked for


def test_its_images_are_normalized_as_the_detector_s_where_the_checkpoint_does_not_say(tmp_path: Path) -> None:
    sam3_checkpoint(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    found = Sam(tmp_path, device="cpu", threads=1, phrases=PLAN).preprocessing
    rule = Sam3Family().image_rule({}, json.loads((tmp_path / "config.json").read_text()), "drawn")
    assert (found.mean, found.std, found.side) == (rule.mean, rule.std, rule.size[0])
    assert found.mean == (0.5, 0.5, 0.5)


def test_the_side_is_read_from_the_config_of_the_whole_and_of_the_part(folder: Path) -> None:
    sam = Sam(folder, device="cpu", threads=1, phrases=PLAN)
    assert sam.checkpoint.side == SIDE
    assert sam.description["segmenter"] == "Sam3Model"
