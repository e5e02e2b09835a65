"""Every closed-set model type against the transformers forward pass and post-processing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from transformers.models.deformable_detr.image_processing_pil_deformable_detr import DeformableDetrImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from labeler.config import Config, make_config
from labeler.detectors.batched import BatchedDetector
from labeler.detectors.preprocess import DetectError
from labeler.labeling.recipe import detector_recipe
from labeler.labeling.resolve import resolve_job
from labeler.labeling.unit import UnitLabeler
from labeler.labels.detections import Detections
from labeler.prompts.closed_set.kinds import KINDS
from labeler.shards import Item
from tests.closed_sets import LABELS, TYPES, make_checkpoint, size_of
from tests.inputs import image_bytes

Pixels = npt.NDArray[np.uint8]
# One with a softmax that keeps an image's shape, one with a sigmoid that stretches it; `make test-slow` has them all.
EVERY_TYPE = [pytest.param(name, marks=[] if name in ("yolos", "rt_detr") else pytest.mark.slow) for name in TYPES]
PROCESSORS: dict[str, Any] = {
    "detr": DetrImageProcessorPil,
    "table-transformer": DetrImageProcessorPil,
    "yolos": YolosImageProcessorPil,
    "conditional_detr": DeformableDetrImageProcessorPil,
    "dab-detr": DeformableDetrImageProcessorPil,
    "deformable_detr": DeformableDetrImageProcessorPil,
    "lw_detr": DeformableDetrImageProcessorPil,
}
NAMES = [name for name in LABELS if name not in ("N/A", "LABEL_5")]


@pytest.fixture(scope="module", params=EVERY_TYPE)
def model_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(model_type: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), model_type)


def config_of(folder: Path, vocabulary: Any = tuple(NAMES), **sections: dict[str, Any]) -> Config:
    detect = {"nms_iou": 1, "score_floor": 0.01, **sections.pop("detect", {})}
    model = {"name": str(folder), **sections.pop("model", {})}
    plain = list(vocabulary) if isinstance(vocabulary, tuple) else vocabulary
    return make_config(
        {"input": "in", "output": "out", "vocabulary": plain, "model": model, "detect": detect, **sections}
    )


def detector(config: Config) -> BatchedDetector:
    return detector_recipe(resolve_job(config), threads=1)()


def pictures() -> list[Pixels]:
    """Smooth ones, as a model's input is: four sizes, two of them equal."""
    made = []
    for seed, (width, height) in enumerate([(120, 90), (120, 90), (60, 150), (96, 64)]):
        rough = torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (1, 3, 5, 5)))
        smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bilinear")
        made.append(smooth[0].permute(1, 2, 0).round().to(torch.uint8).numpy())
    return made


class OfTransformers:
    """Transformers' own processor, model and post-processing, one image at a time."""

    def __init__(self, folder: Path, model_type: str) -> None:
        kind = KINDS[model_type]
        make = PROCESSORS.get(model_type, RTDetrImageProcessorPil)  # RF-DETR's own class needs torchvision
        self.processor = make(size=size_of(model_type), do_normalize=kind.normalized, do_pad=False)
        self.model = getattr(transformers, kind.architecture).from_pretrained(folder).eval()
        self.softmax = kind.softmax

    def forward(self, pixels: Pixels) -> Any:
        with torch.no_grad():
            return self.model(pixel_values=torch.from_numpy(np.array(self.processor(pixels)["pixel_values"])))

    def post_processed(self, pixels: Pixels, **options: Any) -> list[tuple[float, int, list[float]]]:
        """(score, label, xyxy in the image, clipped), as its processor says."""
        height, width = pixels.shape[:2]
        (found,) = self.processor.post_process_object_detection(
            self.forward(pixels), threshold=0.01, target_sizes=[(height, width)], **options
        )
        return rows(found["scores"], found["labels"], clipped(found["boxes"], height, width))

    def best_labels(self, pixels: Pixels) -> list[tuple[float, int, list[float]]]:
        """As `post_processed`, of each candidate the best of the named labels."""
        height, width = pixels.shape[:2]
        out = self.forward(pixels)
        scores = out.logits.softmax(-1) if self.softmax else out.logits.sigmoid()
        best = scores[0][:, [LABELS.index(name) for name in NAMES]].max(-1)
        center, size = out.pred_boxes[0].split(2, -1)
        boxes = torch.cat([center - size / 2, center + size / 2], -1) * torch.tensor([width, height] * 2)
        kept = best.values >= 0.01
        return rows(best.values[kept], best.indices[kept] + 1, clipped(boxes[kept], height, width))


def clipped(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    limits = torch.tensor([width, height] * 2)
    return torch.minimum(boxes.clamp(min=0), limits)


def rows(scores: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor) -> list[tuple[float, int, list[float]]]:
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    found = zip(scores[solid].tolist(), labels[solid].tolist(), boxes[solid].tolist(), strict=True)
    return sorted(found, reverse=True)


def assert_equal(found: Detections, expected: Sequence[tuple[float, int, list[float]]]) -> None:
    order = sorted(zip(found.scores.tolist(), found.category_ids.tolist(), found.boxes.tolist(), strict=True))[::-1]
    assert len(order) == len(expected) > 0
    np.testing.assert_allclose([row[0] for row in order], [row[0] for row in expected], atol=1e-5)
    # Rows of nearly one score may change places: compare each with the nearest of its own score.
    for score, category, box in order:
        near = [row for row in expected if abs(row[0] - score) < 2e-5 and row[1] == category]
        assert min(np.abs(np.subtract(row[2], box)).max() for row in near) < 0.01


def test_equal_to_transformers_forward(folder: Path, model_type: str) -> None:
    """The post-processing of the sigmoid's types is not that: it gives one box up to as many labels as there are
    candidates (RT-DETR's: 30 rows on 27 boxes), and Conditional and Deformable DETR's keeps 100 of 300 boxes."""
    own = OfTransformers(folder, model_type)
    for pixels, found in zip(pictures(), detector(config_of(folder)).detect(pictures()), strict=True):
        assert_equal(found, own.best_labels(pixels))


def test_equal_to_transformers_post_processing(folder: Path, model_type: str) -> None:
    """With every label in the vocabulary. The sigmoid's chooses among pairs of box and label, as `flattened` does.

    Their softmax gives "no object" its share before a label is chosen, and so do the columns of the plan: a softmax
    over the chosen ones alone doubles the scores.
    """
    own, kind = OfTransformers(folder, model_type), KINDS[model_type]
    vocabulary = [{"id": number, "name": f"label {number}"} for number in range(len(LABELS))]
    labels = {name: f"label {number}" for number, name in enumerate(LABELS)}
    detect = {} if kind.softmax else {"assignment": "flattened", "max_detections": 20}
    made = detector(config_of(folder, vocabulary, model={"labels": labels}, detect=detect))
    options = {"top_k": 20} if isinstance(own.processor, DeformableDetrImageProcessorPil) else {}
    for pixels, found in zip(pictures(), made.detect(pictures()), strict=True):
        assert_equal(found, own.post_processed(pixels, **options))


def test_a_batch_is_equal_to_its_images_alone(folder: Path) -> None:
    """Images of one size share a forward pass; none is padded to another's, which changes scores by up to 4e-2."""
    made = detector(config_of(folder, detect={"pairs_per_batch": 4}))
    for together, pixels in zip(made.detect(pictures()), pictures(), strict=True):
        (alone,) = made.detect([pixels])
        np.testing.assert_array_equal(together.category_ids, alone.category_ids)
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-4)
        np.testing.assert_allclose(together.boxes, alone.boxes, atol=0.01)


def test_names_that_change_places_change_their_ids(folder: Path) -> None:
    swap = {"circle": "square", "square": "circle", "triangle": "traffic light", "traffic light": "triangle"}
    plain, swapped = detector(config_of(folder)), detector(config_of(folder, model={"labels": swap}))
    for before, after in zip(plain.detect(pictures()), swapped.detect(pictures()), strict=True):
        expected = [{1: 2, 2: 1, 3: 4, 4: 3}[number] for number in before.category_ids.tolist()]
        assert after.category_ids.tolist() == expected != []


def test_half_precision_is_finite_and_close(folder: Path) -> None:
    whole, half = detector(config_of(folder)), detector(config_of(folder, model={"dtype": "bfloat16"}))
    assert re.search(r"of 20 detections equal", half.engine_check)
    encoded = {}
    for made in (whole, half):
        with torch.inference_mode():
            pixels = made._passes.upload([made.prepare(pictures()[0])])
            encoded[made] = made.network.encode_image(made._passes.normalize(pixels)).tensors
            assert all(tensor.dtype == torch.float32 for tensor in encoded[made])
            assert all(tensor.isfinite().all() for tensor in encoded[made])
    # In order of score: types that choose their candidates choose some in another order.
    best = [encoded[made][0][0].amax(-1).sort().values for made in (whole, half)]
    assert (best[0] - best[1]).abs().max() < 0.1
    # Values of bfloat16 have 8 bits: heads that ran in it could not come out with more.
    assert (encoded[half][1].bfloat16().float() != encoded[half][1]).any()


def test_scores_that_are_not_finite_are_an_error_of_their_image(folder: Path) -> None:
    made = detector(config_of(folder))
    with torch.inference_mode():
        first = next(p for p in made.network.model.parameters() if p.dim() == 4 and p.shape[1] == 3)
        first.fill_(float("nan"))
    (found,) = made.detect_prepared([made.prepare(pictures()[0])])
    assert isinstance(found, DetectError)
    items = [Item("a.png", 0, "mem://a.png", None, None, image_bytes(0, width=80, height=60))]
    (row,), _ = UnitLabeler(made, decode_threads=1).label("shard", items)
    assert (row.status, row.error) == ("detect_error", "the model's scores or boxes are NaN or infinite")


def test_an_image_with_fewer_places_than_candidates_is_an_error_of_its_own(tmp_path: Path) -> None:
    """torch's `topk` and thus the forward pass raises there; a batch of other images continues."""
    folder = make_checkpoint(tmp_path, "deformable_detr")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 64, "longest_edge": 64}}))
    made = detector(config_of(folder))
    narrow = np.full((4, 256, 3), 100, np.uint8)
    found, whole = made.detect_prepared([made.prepare(narrow), made.prepare(pictures()[0])])
    assert str(found) == "too narrow: at 64 x 1 it has 15 positions, and the model asks for 20"
    assert isinstance(whole, Detections)
