"""What is made of the results of a user's `Detector`, and what is wrong with those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeler.checkpoints import DetectorCheckpoint
from labeler.config import DetectConfig, ModelConfig
from labeler.detectors import DetectError
from labeler.detectors.user_detector import UserDetector
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.prompts import ModuleFamily
from labeler.prompts.image_rule import AS_THEY_ARE
from labeler.vocabulary import Vocabulary

_NAMES = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 1, "name": "sky", "negative": True}]
VOCABULARY = Vocabulary.load(_NAMES)
NOTHING: tuple[list[Any], ...] = ([], [], [])


class Own:
    """A module whose detector answers by `results`, a function of an image."""

    name, version = "mine.detector", 2

    def __init__(self, results: Callable[[np.ndarray], Any], most: int | None = None) -> None:
        self.results, self.most, self.calls = results, most, []  # type: ignore[var-annotated]

    def detector_class(self) -> Any:
        def make(folder: str, categories: Any, device: str, options: dict[str, Any]) -> Own:
            self.made = folder, [category.id for category in categories], device, options
            return self

        return make

    def detect(self, images: list[np.ndarray]) -> list[Any]:
        if self.most is not None and len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        self.calls.append(len(images))
        return [self.results(image) for image in images]


def detector(own: Own, *, own_options: tuple[str, ...] = (), model: Any = None, **detect: Any) -> UserDetector:
    family = ModuleFamily(own.name, own.version, frozenset(own_options))
    checkpoint = DetectorCheckpoint(Path("weights"), "weights", None, "", "it", family, AS_THEY_ARE)
    settings = ModelConfig(device="cpu", **(model or {}))
    return UserDetector(checkpoint, own, VOCABULARY, model=settings, detect=DetectConfig(**detect), threads=1)  # type: ignore[arg-type]


def of(result: Any, **detect: Any) -> Detections | DetectError:
    """The row of a result, for an image of 20 x 10; the synthetic image at the start has no object."""
    made = detector(Own(lambda image: result if image.shape[1] == 20 else NOTHING), **detect)
    (found,) = made.detect_prepared([made.prepare(np.zeros((10, 20, 3), np.uint8))])
    return found


def test_it_is_made_of_a_folder_categories_a_device_and_its_options() -> None:
    own = Own(lambda image: NOTHING)
    made = detector(own, own_options=("a", "dtype"), model={"options": {"a": 1}, "dtype": "bfloat16"})
    assert own.made == ("weights", [7, 9, 1], "cpu", {"a": 1, "dtype": "bfloat16"})
    assert made.description == {"engine": "mine.detector 2", "device": "cpu", "dtype": "bfloat16"}
    assert own.calls == [1]  # the synthetic image


def test_boxes_are_clipped_cut_at_the_floor_merged_and_capped_and_negatives_left_out() -> None:
    boxes = [[-5, 2, 30, 8], [0, 2, 20, 8], [1, 1, 4, 4], [1, 1, 4, 4], [30, 1, 40, 4], [3, 3, 3, 9], [0, 0, 9, 9]]
    found = of((boxes, [0.9, 0.8, 0.5, 0.4, 0.9, 0.9, 0.7], [7, 7, 9, 7, 9, 9, 1]), score_floor=0.45)
    assert isinstance(found, Detections)
    assert found.boxes.tolist() == [[0, 2, 20, 8], [1, 1, 4, 4]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.category_ids.tolist() == [7, 9]
    assert len(of((boxes, [0.9] * 7, [7, 9] * 3 + [7]), max_detections=1)) == 1  # type: ignore[arg-type]


def test_tensors_are_taken_and_nothing_is_a_result_too() -> None:
    given = torch.tensor([[1.0, 1, 4, 4]], requires_grad=True), torch.tensor([0.5]), torch.tensor([9])
    found = of(given)
    assert isinstance(found, Detections)
    assert found.boxes.tolist() == [[1, 1, 4, 4]]
    for nothing in (NOTHING, (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))):
        assert len(of(nothing)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (([[0, 0, 1, 1]], [np.nan], [7]), "the detector's scores or boxes are NaN or infinite"),
        (([[0, 0, np.inf, 1]], [0.5], [7]), "the detector's scores or boxes are NaN or infinite"),
        (([[0, 0, 1, 1]], [1.5], [7]), "scores are from 0 to 1, the detector gave 1.5 to 1.5"),
        (([[0, 0, 1, 1]], [-3], [7]), "scores are from 0 to 1, the detector gave -3 to -3"),
        (([[0, 0, 1, 1]], [0.5], [3]), "the detector gave category id 3, which the vocabulary does not have"),
        (([[0, 0, 1, 1]], [0.5], [7, 9]), r"category ids (n,) are needed, the detector gave (1, 4), (1,), (2,)"),
        (([[0, 0, 1]], [0.5], [7]), r"boxes (n, 4), scores (n,) and category ids (n,) are needed"),
        (([0, 0, 1, 1], [0.5], [7]), r"the detector gave (4,), (1,), (1,)"),
        (ValueError("not this one\nat all"), "ValueError: not this one"),
    ],
)
def test_what_is_wrong_with_one_image_is_its_error_and_at_the_start_a_refusal(result: Any, message: str) -> None:
    found = of(result)
    assert isinstance(found, DetectError)
    assert str(found).endswith(message) or message in str(found)
    with pytest.raises(Refused, match=r"model.family mine.detector does not work on a synthetic image: ") as refused:
        detector(Own(lambda image: result))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_memory_that_runs_out_halves_the_batch_and_is_not_hidden_from_the_worker() -> None:
    own = Own(lambda image: ([[0, 0, 1, 1]], [image[0, 0, 0] / 255], [7]), most=2)
    made = detector(own)
    batch = [made.prepare(np.full((5, 5 + level, 3), level, np.uint8)) for level in (50, 60, 70, 80, 90)]
    found = made.detect_prepared(batch)
    assert [round(float(one.scores[0]) * 255) for one in found] == [50, 60, 70, 80, 90]  # type: ignore[union-attr]
    assert own.calls[1:] == [2, 1, 2]
    own.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        made.detect_prepared(batch[:1])


def test_what_its_code_raises_is_the_workers_to_judge_but_at_the_start() -> None:
    def raise_at_20(image: np.ndarray) -> Any:
        if image.shape[1] == 20:
            raise KeyError("no such kernel")
        return NOTHING

    made = detector(Own(raise_at_20))
    with pytest.raises(KeyError, match="no such kernel"):
        made.detect_prepared([made.prepare(np.zeros((10, 20, 3), np.uint8))])
    with pytest.raises(Refused, match=r"model.family mine.detector does not start: ZeroDivisionError: "):
        detector(Own(lambda image: 1 // 0))
    short = detector(Own(lambda image: NOTHING))
    short._own.detect = lambda images: []  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"mine.detector gave results of 0 images for 2"):
        short.detect_prepared([short.prepare(np.zeros((4, 4, 3), np.uint8))] * 2)
