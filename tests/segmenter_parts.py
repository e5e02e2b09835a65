"""Tiny random checkpoints of the SAM family, images and boxes for them, and transformers' own answers."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from labeler.labels.detections import Detections

FAMILIES = ("sam", "sam_hq", "sam2")
PATTERNS = ((77, 160), (160, 77), (128, 128), (300, 31), (7, 5), (2, 400))  # (height, width)


@cache
def tiny_sam(family: str, seed: int = 0) -> Path:
    """A folder with a checkpoint; do not change what is in it."""
    from labeler.segmenters.scratch import create_segmenter

    folder = Path(tempfile.mkdtemp(prefix="tiny-sam-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return create_segmenter(folder / f"{family}-{seed}", family=family, seed=seed)


def broken_sam(folder: Path, how: str) -> Path:
    """One that loads and cannot run: by its config, or by its weights."""
    shutil.copytree(tiny_sam("sam"), folder)
    if how == "config":
        config = json.loads((folder / "config.json").read_text())
        config["prompt_encoder_config"]["image_embedding_size"] = 3
        (folder / "config.json").write_text(json.dumps(config))
    else:
        weights = load_file(folder / "model.safetensors")
        for name, tensor in weights.items():
            if "mask_decoder" in name and tensor.dtype.is_floating_point:
                tensor.fill_(float("nan"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def pattern(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(h, w, 3) uint8: smooth waves and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(3, 20) + y / rng.uniform(3, 20) + rng.uniform(0, 6)) for _ in range(3)]
    values = 128 + 90 * np.stack(waves, 2) + rng.normal(0, 12, (height, width, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def detections(height: int, width: int, count: int, seed: int = 0) -> Detections:
    """Boxes with an area inside the image, best first."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), 1).reshape(count, 4)
    corners[:, 2:] = np.minimum(1, corners[:, 2:] + 0.1)
    boxes = corners * [width, height, width, height]
    return Detections.of(boxes, np.linspace(0.99, 0.5, count), np.arange(count) % 3)


@dataclass(frozen=True)
class Expected:
    """Attributes:
    low: (n, g, g) the model's logits.
    logits: (n, h, w) at the image's size, not cut to any box.
    quality: (n,).
    """

    low: np.ndarray
    logits: np.ndarray
    quality: np.ndarray


@cache
def stock_model(family: str, seed: int = 0) -> Any:
    import transformers

    name = {"sam": "SamModel", "sam_hq": "SamHQModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}[family]
    return getattr(transformers, name).from_pretrained(tiny_sam(family, seed), dtype=torch.float32).eval()


def expected(family: str, image: np.ndarray, boxes_xyxy: np.ndarray, seed: int = 0) -> Expected:
    """Transformers' own whole way: processor, forward of everything at once, post-processing of whole images."""
    torch.set_num_threads(1)
    model, folder = stock_model(family, seed), tiny_sam(family, seed)
    way = _as_sam if family in ("sam", "sam_hq") else _as_sam2
    with torch.inference_mode():
        inputs, enlarge = way(family, folder, image, boxes_xyxy)
        found = model(**inputs, multimask_output=False)
        low = found.pred_masks[0]  # (n, 1, g, g)
        return Expected(low[:, 0].numpy(), enlarge(low).numpy()[:, 0], found.iou_scores[0, :, 0].numpy())


def _as_sam(family: str, folder: Path, image: np.ndarray, boxes: np.ndarray) -> tuple[dict[str, Any], Any]:
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
    from transformers.models.sam.processing_sam import SamProcessor

    processor = SamProcessor(SamImageProcessorPil.from_pretrained(folder))
    inputs = processor(image, input_boxes=[boxes.astype(np.float64).tolist()], return_tensors="pt")
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]

    def enlarge(low: torch.Tensor) -> torch.Tensor:
        return processor.post_process_masks([low], *sizes, binarize=False)[0]  # type: ignore[no-any-return]

    return {"pixel_values": inputs["pixel_values"], "input_boxes": inputs["input_boxes"]}, enlarge


def _as_sam2(family: str, folder: Path, image: np.ndarray, boxes: np.ndarray) -> tuple[dict[str, Any], Any]:
    """Its image processor needs torchvision: the pixels are labeler's, and the rest follows its source."""
    from transformers.models.sam2.processing_sam2 import Sam2Processor

    from labeler.segmenters.sam import Sam

    ours = Sam(folder, device="cpu", threads=1)
    size = image.shape[:2]
    prompts = Sam2Processor._normalize_coordinates(None, 128, torch.from_numpy(boxes), size, is_bounding_box=True)

    def enlarge(low: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(low, size, mode="bilinear", align_corners=False)

    return {"pixel_values": ours._normalized(ours.prepare(image)), "input_boxes": prompts[None]}, enlarge
