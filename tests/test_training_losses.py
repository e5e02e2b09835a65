"""The training loss: equal to transformers' where that is right, and right where it is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_parts import tiny_checkpoint
from transformers.loss.loss_grounding_dino import GroundingDinoForObjectDetectionLoss
from transformers.models.mm_grounding_dino import modeling_mm_grounding_dino as stock

from labeler import checkpoints
from labeler.detectors.loading import load_model
from labeler.training.losses import LossWeights, Targets, detection_loss, generalized_iou, match
from labeler.training.trainee import Trainee

A, B, C = 2001, 2002, 2003  # word tokens
SAME = [[101, A, B, 1012, C, 1012, 102]] * 2  # two phrases: "A B" and "C"
DIFFERENT = [[101, A, 1012, C, 1012, 102, 0], [101, C, 1012, A, B, 1012, 102]]
SAME_POSITIONS = [[[1, 2], [4]]] * 2  # of each phrase in each image
DIFFERENT_POSITIONS = [[[1], [3]], [[1], [3, 4]]]
CLASS_LABELS = [[0, 1, 1], [1]]  # phrase of each object in each image


def _targets(positions: list[list[list[int]]], labels: list[list[int]], width: int) -> Targets:
    generator = torch.Generator().manual_seed(1)
    most = max(1, *map(len, labels))
    boxes = torch.rand((len(labels), most, 4), generator=generator) * 0.2 + torch.tensor([0.3, 0.3, 0.1, 0.1])
    tokens = torch.zeros((len(labels), most, width))
    for image, phrases in enumerate(labels):
        for place, phrase in enumerate(phrases):
            tokens[image, place, positions[image][phrase]] = 1
    return Targets(boxes, tokens, tuple(map(len, labels)))


def _outputs(ids: list[list[int]], queries: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits (3 stages), boxes and token mask for these prompts."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor(ids) != 0
    logits = torch.randn((3, len(ids), queries, len(ids[0])), generator=generator)
    logits = logits.masked_fill(~mask[None, :, None], -math.inf)
    return logits, torch.rand((3, len(ids), queries, 4), generator=generator) * 0.3 + 0.2, mask


def _stock_loss(
    ids: list[list[int]], logits: Tensor, boxes: Tensor, mask: Tensor, targets: Targets, labels: list[list[int]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """transformers' loss of the same outputs: stages 0 and 1 are the decoder's, 2 the encoder's."""
    config = stock.MMGroundingDinoConfig(decoder_layers=2, auxiliary_loss=True, two_stage=True)
    truth = [
        {"class_labels": torch.tensor(labels[i], dtype=torch.long), "boxes": targets.boxes[i, : len(labels[i])]}
        for i in range(len(labels))
    ]
    maps = stock.build_label_maps(logits[0], torch.tensor(ids))
    text_mask = stock.build_text_mask(logits[0], mask.long())
    total, parts, _ = GroundingDinoForObjectDetectionLoss(
        logits[1],
        truth,
        torch.device("cpu"),
        boxes[1],
        config,
        maps,
        text_mask,
        logits[:2],
        boxes[:2],
        logits[2],
        boxes[2],
    )
    return total, parts


def _ours(logits: Tensor, boxes: Tensor, mask: Tensor, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
    weights = LossWeights.of(stock.MMGroundingDinoConfig())
    return detection_loss(logits, boxes, mask, targets, weights, float(sum(targets.counts)))


def test_a_batch_without_any_object_has_only_a_loss_for_what_is_found() -> None:
    logits, boxes, mask = _outputs(SAME)
    total, parts = detection_loss(logits, boxes, mask, _targets(SAME_POSITIONS, [[], []], 7), LossWeights(), 1.0)
    assert parts["loss_ce"].min() > 0
    assert parts["loss_bbox"].tolist() == parts["loss_giou"].tolist() == [0, 0, 0]
    assert torch.isfinite(total)


def test_it_equals_transformers_loss_where_all_images_have_the_same_prompt() -> None:
    logits, boxes, mask = _outputs(SAME)
    targets = _targets(SAME_POSITIONS, CLASS_LABELS, 7)
    theirs, their_parts = _stock_loss(SAME, logits, boxes, mask, targets, CLASS_LABELS)
    ours, parts = _ours(logits, boxes, mask, targets)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        expected = [their_parts[f"{name}_0"].item(), their_parts[name].item(), their_parts[f"{name}_enc"].item()]
        assert parts[name].tolist() == pytest.approx(expected, rel=1e-5)


def test_transformers_counts_classes_from_the_wrong_image_where_prompts_differ() -> None:
    """Its offset into the label maps of all images is the length of the image's own map, not of those before it."""
    ids = [[101, A, 1012, 102, 0, 0, 0], [101, C, 1012, A, B, 1012, 102]]  # one phrase, then two
    positions = [[[1]], [[1], [3, 4]]]
    labels = [[0], [0]]
    logits, boxes, mask = _outputs(ids)
    targets = _targets(positions, labels, 7)
    _, theirs = _stock_loss(ids, logits, boxes, mask, targets, labels)
    _, ours = _ours(logits, boxes, mask, targets)
    wrong = Targets(targets.boxes, targets.tokens.clone(), targets.counts)
    wrong.tokens[1, 0] = torch.tensor([0.0, 0, 0, 1, 1, 0, 0])  # "A B", which nobody asked for, instead of "C"
    _, as_theirs = _focal_of(logits, boxes, mask, targets, wrong)
    assert theirs["loss_ce"].item() == pytest.approx(as_theirs, rel=1e-5)
    assert abs(theirs["loss_ce"].item() - ours["loss_ce"][1].item()) > 0.01


def _focal_of(logits: Tensor, boxes: Tensor, mask: Tensor, matched: Targets, labeled: Targets) -> tuple[Any, float]:
    """The last decoder layer's focal loss with the matching of one set of targets and the labels of another."""
    weights = LossWeights()
    _, image, query, target = match(logits[1:2], boxes[1:2], matched, weights)
    scores, labels = logits[1], torch.zeros_like(logits[1])
    labels[image, query] = labeled.tokens[image, target]
    chosen = mask[:, None].expand_as(scores)
    p, y = scores[chosen].sigmoid().double(), labels[chosen].double()
    right = p * y + (1 - p) * (1 - y)
    loss = -(0.25 * y + 0.75 * (1 - y)) * (1 - right) ** 2 * right.log()
    return None, loss.sum().item() / sum(matched.counts)


def test_with_different_prompts_every_image_counts_as_it_would_alone() -> None:
    logits, boxes, mask = _outputs(DIFFERENT)
    targets = _targets(DIFFERENT_POSITIONS, CLASS_LABELS, 7)
    _, together = _ours(logits, boxes, mask, targets)
    alone = 0.0
    for i in range(2):
        one = Targets(targets.boxes[i : i + 1], targets.tokens[i : i + 1], targets.counts[i : i + 1])
        _, parts = detection_loss(logits[:, i : i + 1], boxes[:, i : i + 1], mask[i : i + 1], one, LossWeights(), 4.0)
        alone += parts["loss_ce"]
    assert together["loss_ce"].tolist() == pytest.approx(alone.tolist(), rel=1e-5)


def test_more_objects_than_queries_match_each_query_once() -> None:
    logits, boxes, _ = _outputs(SAME, queries=2)
    _, image, query, target = match(logits, boxes, _targets(SAME_POSITIONS, CLASS_LABELS, 7), LossWeights())
    pairs = list(zip(image.tolist(), query.tolist(), strict=True))
    assert len(pairs) == 3 * (2 + 1)  # of three objects two are matched
    assert len(set(zip(image.tolist(), target.tolist(), strict=True))) <= 4


def test_a_not_a_number_does_not_stop_the_matching() -> None:
    logits, boxes, _ = _outputs(SAME)
    boxes[0, 0, 0] = math.nan
    stage, image, query, _ = match(logits, boxes, _targets(SAME_POSITIONS, CLASS_LABELS, 7), LossWeights())
    assert 0 not in query[(stage == 0) & (image == 0)].tolist()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], 1.0),
        ([0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0], 0.0),  # side by side: nothing shared, nothing between
        ([0.1, 0.1, 0.2, 0.2], [0.9, 0.9, 0.2, 0.2], 0.08 / 1.0 - 1),  # opposite corners
    ],
)
def test_generalized_iou_of_known_boxes(first: list[float], second: list[float], expected: float) -> None:
    assert generalized_iou(torch.tensor(first), torch.tensor(second)).item() == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Any:
    checkpoint = checkpoints.resolve(tiny_checkpoint(tmp_path_factory.mktemp("tiny")))
    return load_model(checkpoint, torch.device("cpu")).requires_grad_(True)


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[101, 1100, 1101, 1012, 1102, 1012, 102], [101, 1103, 1012, 1104, 1012, 102, 0]])
    return torch.randn((2, 3, 64, 64), generator=generator), ids, ids != 0


def test_the_last_stage_of_the_decoder_is_what_transformers_returns(detector: Any) -> None:
    pixels, ids, mask = _inputs()
    logits, boxes, _ = Trainee(detector)(pixels, ids, mask)
    stock_outputs = detector(pixel_values=pixels, input_ids=ids, attention_mask=mask.long())
    assert logits.shape == (3, 2, 12, 7)
    torch.testing.assert_close(logits[1], stock_outputs.logits[..., :7])
    torch.testing.assert_close(boxes[1], stock_outputs.pred_boxes)
    torch.testing.assert_close(boxes[2], stock_outputs.init_reference_points)


def test_the_proposal_heads_learn_from_our_loss_and_not_from_transformers(detector: Any) -> None:
    pixels, ids, mask = _inputs()
    targets = _targets([[[1, 2], [4]], [[1], [3]]], CLASS_LABELS, 7)
    head = detector.model.encoder_output_bbox_embed.layers[0].weight
    detector.zero_grad()
    labels = [
        {"class_labels": torch.tensor(found), "boxes": targets.boxes[i, : len(found)]}
        for i, found in enumerate(CLASS_LABELS)
    ]
    detector(pixel_values=pixels, input_ids=ids, attention_mask=mask.long(), labels=labels).loss.backward()
    assert head.grad is None or not head.grad.any()
    detector.zero_grad()
    logits, boxes, _ = Trainee(detector)(pixels, ids, mask)
    detection_loss(logits, boxes, mask, targets, LossWeights(), 4.0)[0].backward()
    assert head.grad.any()
    unused = {name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None}
    assert all("swin.layernorm" in name for name in unused)


def test_fused_attention_gives_the_same_loss_and_gradients(tmp_path: Path) -> None:
    from labeler.training.trainee import use_fused_attention

    checkpoint = checkpoints.resolve(tiny_checkpoint(tmp_path))
    pixels, ids, mask = _inputs()
    targets = _targets([[[1, 2], [4]], [[1], [3]]], CLASS_LABELS, 7)
    found = []
    for fused in (False, True):
        model = load_model(checkpoint, torch.device("cpu")).requires_grad_(True)
        if fused:
            use_fused_attention(model)
        logits, boxes, _ = Trainee(model)(pixels, ids, mask)
        loss, _ = detection_loss(logits, boxes, mask, targets, LossWeights(), 4.0)
        loss.backward()
        fusion = model.model.encoder.layers[0].fusion_layer.attn
        found.append((loss.item(), fusion.vision_proj.weight.grad, fusion.values_vision_proj.weight.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1:], found[0][1:], rtol=1e-3, atol=1e-5)
