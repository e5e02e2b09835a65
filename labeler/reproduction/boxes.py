"""A run's boxes against transformers' own forward pass, on some of its images."""

from __future__ import annotations

from typing import Any

from labeler import images
from labeler.checkpoints import DetectorCheckpoint
from labeler.config import Config
from labeler.detectors.agreement import FLOAT32, HALF
from labeler.detectors.grounding_dino.own_forward import OwnForward, compare_boxes
from labeler.detectors.loading import choose_device, choose_half
from labeler.labeling.resolve import plan_input
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import Run, read_snapshot
from labeler.trial.sample import sample_items


def compare_with_own_forward(config: Config, checkpoint: DetectorCheckpoint, run: Run, count: int) -> dict[str, Any]:
    """Return detections of transformers' forward in float32 that the run has, too, as plain data.

    Args:
        count: images, drawn from the input.
    """
    prompts = run.prompts()
    assert isinstance(prompts, Prompts)
    device = choose_device(config.model.device)
    tolerance = FLOAT32 if choose_half(config.model.dtype, device) is None else HALF
    own, stored = OwnForward(checkpoint, prompts, device), _stored(run)
    pairs = []
    for shard_id, item in sample_items(config, plan_input(config), images=count):
        if item.data is not None and (shard_id, item.index) in stored:
            pixels = images.decode(item.data, max_pixels=config.detect.max_pixels).pixels
            pairs.append((own.best(pixels), stored[shard_id, item.index]))
    found = compare_boxes(pairs, least_iou=tolerance.iou, score_error=tolerance.score)
    return {
        "images": found.images,
        "compared": found.compared,
        "matched": found.matched,
        "part": found.part,
        "largest_score_error": found.score_error,
        "largest_box_error_px": found.box_error,
        "same_if": {"iou": tolerance.iou, "score": tolerance.score},
        "in_words": (
            f"{found.part:.2%} of the {found.compared:,} best of transformers' own forward pass "
            f"in {found.images} images, "
            f"scores within {found.score_error:.1e}, boxes within {found.box_error:.1e} px"
        ),
    }


def _stored(run: Run) -> dict[tuple[str, int], Detections]:
    found: dict[tuple[str, int], Detections] = {}
    for table in read_snapshot(run).tables(["shard_id", "index", "status", "detections"]):
        rows = zip(
            table["shard_id"].to_pylist(),
            table["index"].to_pylist(),
            DetectionsColumn(table).per_row(masks=False),
            strict=True,
        )
        found |= {(shard_id, index): detections for shard_id, index, detections in rows}
    return found
