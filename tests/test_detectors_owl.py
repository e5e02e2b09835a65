"""OWL-ViT and OWLv2 with every parameter drawn at random, against transformers' processor, forward and post-processing.

The reference is right except for three things, named where they are compared: boxes are not clipped, a shorter list of
names is filled with texts that can win, and half precision reaches the boxes.
"""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from labeler.checkpoints import resolve
from labeler.config import DetectConfig, ModelConfig, PromptsConfig
from labeler.detectors.batched import BatchedDetector
from labeler.detectors.owl.network import OwlNetwork
from labeler.labeling.unit import UnitLabeler
from labeler.labels.detections import Detections
from labeler.prompts.owl.text import TEMPLATES
from labeler.shards import Item
from labeler.vocabulary import Vocabulary
from tests.inputs import image_bytes
from tests.owl_model import KINDS, NAMES, SIDE, WORDS, Kind, owl_checkpoint

EVERYTHING = {"score_floor": 0.0, "max_detections": 0, "nms_iou": 1.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    return {kind: owl_checkpoint(tmp_path_factory.mktemp("owl"), kind) for kind in KINDS}


def detector_of(
    folder: Path,
    names: Any = NAMES,
    *,
    templates: tuple[str, ...] | None = ("{}",),
    dtype: str = "float32",
    **detect: Any,
) -> BatchedDetector:
    checkpoint = resolve(folder)
    model = ModelConfig(name=str(folder), device="cpu", dtype=dtype)
    planner = checkpoint.family.planner(folder, model)
    plan = planner.plan(Vocabulary.load(names), PromptsConfig(templates=templates))
    return BatchedDetector(checkpoint, plan, model=model, detect=DetectConfig(**{**EVERYTHING, **detect}), threads=1)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)


def model_and_processor(folder: Path, kind: Kind) -> tuple[Any, Any]:
    processors = {"owl-vit": OwlViTImageProcessorPil, "owlv2": Owlv2ImageProcessorPil}
    classes = {"owl-vit": transformers.OwlViTForObjectDetection, "owlv2": transformers.Owlv2ForObjectDetection}
    return classes[kind].from_pretrained(folder).eval(), processors[kind](size={"height": SIDE, "width": SIDE})


def of_transformers(folder: Path, kind: Kind, images: list[np.ndarray], texts: list[list[str]]) -> list[Any]:
    """Scores, labels and boxes of each image; the logits of several lists of texts are averaged."""
    model, processor = model_and_processor(folder, kind)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    pixels = torch.from_numpy(np.stack(processor(images)["pixel_values"])).float()
    logits = []
    for each in texts:
        words = tokenizer(each, padding="max_length", max_length=16, return_tensors="pt")
        repeated = {name: words[name].repeat(len(images), 1) for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            out = model(pixel_values=pixels, **repeated)
        logits.append(out.logits)
    out.logits = torch.stack(logits).mean(0)
    sizes = [image.shape[:2] for image in images]
    return processor.post_process_object_detection(out, threshold=0.0, target_sizes=sizes)


def assert_equal(found: Detections, expected: dict[str, torch.Tensor], image: np.ndarray, atol: float = 2e-2) -> None:
    """The reference, clipped to the image, without the padding of the square (T6)."""
    height, width = image.shape[:2]
    boxes = np.clip(expected["boxes"].numpy(), 0, [width, height] * 2)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = np.argsort(-expected["scores"].numpy()[inside], kind="stable")
    np.testing.assert_allclose(found.scores, expected["scores"].numpy()[inside][order], atol=1e-5)
    np.testing.assert_array_equal(found.category_ids, expected["labels"].numpy()[inside][order] + 1)
    np.testing.assert_allclose(found.boxes, boxes[inside][order], atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_transformers_on_wide_and_tall_images(folders: dict[Kind, Path], kind: Kind) -> None:
    images = [photo(200, 160), photo(100, 400), photo(400, 100), photo(50, 60)]
    detector = detector_of(folders[kind])
    expected = of_transformers(folders[kind], kind, images, [list(NAMES)])
    for image, found, theirs in zip(images, detector.detect(images), expected, strict=True):
        assert_equal(found, theirs, image)
        assert len(found) > 5
    if kind == "owlv2":
        assert any(theirs["boxes"].max() > 399 for theirs in expected[1:3])
        assert expected[1]["boxes"][:, 3].max() > 150  # the reference: below an image 100 pixels high


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_templates_average_the_logits(folders: dict[Kind, Path], kind: Kind) -> None:
    """The protocol averages the logits of seven forward passes; here it is one, with the mean of unit embeddings."""
    image = photo(90, 120)
    texts = [[template.replace("{}", name).replace(".", "") for name in NAMES] for template in TEMPLATES]
    (expected,) = of_transformers(folders[kind], kind, [image], texts)
    (found,) = detector_of(folders[kind], templates=None).detect([image])
    assert_equal(found, expected, image)
    (alone,) = detector_of(folders[kind]).detect([image])
    assert np.abs(alone.scores[: len(found)] - found.scores).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_what_each_image_is_alone(folders: dict[Kind, Path], kind: Kind) -> None:
    images = [photo(200, 160), photo(100, 400), photo(64, 64)]
    together = detector_of(folders[kind], pairs_per_batch=3).detect(images)
    single = detector_of(folders[kind], pairs_per_batch=1)
    for found, image in zip(together, images, strict=True):
        (expected,) = single.detect([image])
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


def test_two_names_swapped_are_two_ids_swapped(folders: dict[Kind, Path]) -> None:
    image = photo(200, 160)
    (found,) = detector_of(folders["owlv2"], ["cat", "dog", "bus"]).detect([image])
    (swapped,) = detector_of(folders["owlv2"], ["dog", "cat", "bus"]).detect([image])
    assert {1, 2} <= set(found.category_ids.tolist())
    np.testing.assert_array_equal(np.array([0, 2, 1, 3])[found.category_ids], swapped.category_ids)
    np.testing.assert_allclose(found.boxes, swapped.boxes, atol=1e-3)


def test_no_text_but_the_names_takes_part(folders: dict[Kind, Path]) -> None:
    """Their processor fills the shorter list of two with " ", a text like others: scores of one name move (T5)."""
    image = photo(200, 160)
    (one,) = detector_of(folders["owlv2"], ["dog"]).detect([image])
    (padded,) = of_transformers(folders["owlv2"], "owlv2", [image], [["dog", " "]])
    assert (padded["labels"] == 1).any()  # theirs: boxes of the text that fills the list
    (alone,) = of_transformers(folders["owlv2"], "owlv2", [image], [["dog"]])
    assert_equal(one, alone, image)


def test_1203_names_are_one_pass(folders: dict[Kind, Path]) -> None:
    names = [" ".join(words) for words in islice(product(WORDS, repeat=3), 1203)]
    image = photo(200, 160)
    detector = detector_of(folders["owlv2"], names)
    assert (detector.plan.passes, len(detector.plan.phrase_categories[0])) == (1, 1203)
    (expected,) = of_transformers(folders["owlv2"], "owlv2", [image], [names])
    (found,) = detector.detect([image])
    assert_equal(found, expected, image)
    assert len(set(found.category_ids.tolist())) > 5


def test_many_texts_are_encoded_in_batches_with_the_same_result(
    folders: dict[Kind, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches have texts of other lengths beside a text, which see nothing of it."""
    image = photo(90, 120)
    (whole,) = detector_of(folders["owlv2"], templates=None).detect([image])
    monkeypatch.setattr("labeler.detectors.owl.network._TEXTS", 5)
    (found,) = detector_of(folders["owlv2"], templates=None).detect([image])
    np.testing.assert_allclose(found.scores, whole.scores, atol=1e-6)


def test_texts_are_encoded_once(folders: dict[Kind, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = OwlNetwork.encode_text
    monkeypatch.setattr(OwlNetwork, "encode_text", lambda self: calls.append(1) or real(self))
    detector = detector_of(folders["owlv2"])
    detector.detect([photo(90, 120), photo(120, 90)])
    assert calls == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_finite_and_near(folders: dict[Kind, Path], kind: Kind) -> None:
    """Boxes are added up in float32: what half precision does to them comes from the image encoder alone (T13, T14)."""
    image = photo(200, 160)
    detector = detector_of(folders[kind], dtype="bfloat16")
    assert detector.dtype == "bfloat16"
    assert "detections equal" in detector.engine_check
    (found,), (exact,) = detector.detect([image]), detector_of(folders[kind]).detect([image])
    assert found.boxes.dtype == exact.boxes.dtype == np.float32
    assert np.isfinite(found.boxes).all()
    assert abs(len(found) - len(exact)) <= 2
    assert np.abs(np.sort(found.scores)[::-1][:20] - exact.scores[:20]).max() < 0.03
    encoded = detector.network.encode_image(torch.zeros(1, 3, SIDE, SIDE))
    assert {tensor.dtype for tensor in encoded.tensors} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_an_error_and_never_empty(folders: dict[Kind, Path], kind: Kind) -> None:
    detector = detector_of(folders[kind])
    with torch.no_grad():
        detector.network.model.class_head.logit_shift.bias.fill_(float("nan"))
    item = Item("a.png", 0, "a.png", None, None, image_bytes(0, width=120, height=90))
    ((row,), _) = UnitLabeler(detector, decode_threads=0).label("000000", [item])
    assert (row.status, len(row.detections)) == ("detect_error", 0)
    assert "NaN or infinite" in str(row.error)


def test_a_query_that_is_not_finite_is_refused_at_the_start(folders: dict[Kind, Path]) -> None:
    from labeler.detectors.loading import load_model
    from labeler.detectors.network import Setup
    from labeler.errors import Refused

    checkpoint = resolve(folders["owlv2"])
    model = load_model(checkpoint, torch.device("cpu"))
    with torch.no_grad():
        model.owlv2.text_projection.weight.fill_(float("inf"))
    plan = detector_of(folders["owlv2"]).plan
    network = OwlNetwork(model, plan, Setup("owl", checkpoint.rule, None))
    with torch.inference_mode(), pytest.raises(Refused, match="NaN or infinite"):
        network.start(network.encode_text())


def test_the_floor_is_the_familys_where_none_is_said(folders: dict[Kind, Path]) -> None:
    image = photo(200, 160)
    everything = detector_of(folders["owl-vit"]).detect([image])[0].scores
    (found,) = detector_of(folders["owl-vit"], score_floor=None).detect([image])
    assert len(found) == (everything >= 0.02).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_is_the_query_that_transformers_makes(folders: dict[Kind, Path], kind: Kind, tmp_path: Path) -> None:
    """`image_guided_detection`, box by box; and one crop beside a name is one query beside the other's."""
    image, crop = photo(200, 160), photo(50, 70)
    Image.fromarray(crop).save(tmp_path / "crop.png")
    by_crop = {"name": "thing", "phrases": [{"image": str(tmp_path / "crop.png")}]}
    model, processor = model_and_processor(folders[kind], kind)
    pixels, query = (torch.from_numpy(np.stack(processor([each])["pixel_values"])).float() for each in (image, crop))
    with torch.no_grad():
        out = model.image_guided_detection(pixel_values=pixels, query_pixel_values=query)
    out.pred_boxes = out.target_pred_boxes
    (expected,) = processor.post_process_object_detection(out, threshold=0.0, target_sizes=[image.shape[:2]])
    (found,) = detector_of(folders[kind], [by_crop]).detect([image])
    assert_equal(found, expected, image)
    both = detector_of(folders[kind], ["cat", by_crop])
    encoded = both.network.encode_image(pixels)
    scores = both.network.detect(encoded, both._passes.text).scores
    np.testing.assert_allclose(scores[0, :, 1], out.logits[0, :, 0].sigmoid(), atol=1e-5)
