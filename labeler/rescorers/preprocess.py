"""The crop of a box, ready for the model: cut and resized on the CPU, with Pillow, as its image processor does it.

Pixels stay uint8; they are normalized on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from labeler.checkpoints import image_processor_config
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.prompts.image_rule import mean_and_std, resample_of, scale_of
from labeler.prompts.sam3.family import HALF
from labeler.rescorers.checkpoint import RescorerCheckpoint

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_BICUBIC = 3  # Pillow's number
_LONGEST = 16  # times the side: of longer resized crops only the middle, which is kept, is computed


@dataclass(frozen=True)
class Crops:
    """An image's boxes as the model sees them.

    Attributes:
        pixels: (k, side, side, 3) uint8 RGB; equal boxes share one.
        crop_of: (n,) the crop of each detection, -1 where its box has no area inside the image.
    """

    found: Detections
    pixels: npt.NDArray[np.uint8]
    crop_of: npt.NDArray[np.intp]


@dataclass(frozen=True)
class CropRule:
    """The preprocessing that a checkpoint expects.

    Attributes:
        side: of the model's square input, in pixels.
        shortest: that the shorter side is resized to, before the middle square is cut out (CLIP); 0: both sides become
            `side` (SigLIP).
        resample: Pillow's number of the filter.
        scale, mean, std: normalized = (pixel * scale - mean) / std, per RGB channel.
        margin: part of a box's width and height that is added on each side of it.
    """

    side: int
    shortest: int
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    margin: float

    @staticmethod
    def of(checkpoint: RescorerCheckpoint, margin: float) -> CropRule:
        """Return the checkpoint's own settings. Refused where they do not fit the model."""
        own = (_CLIP_MEAN, _CLIP_STD) if checkpoint.compares else (HALF, HALF)
        given = image_processor_config(checkpoint.folder)
        config = {"image_mean": own[0], "image_std": own[1], "resample": _BICUBIC, **given}
        shortest = _shortest(config, checkpoint)
        mean, std = mean_and_std(config, checkpoint.name)
        resample = resample_of(config, checkpoint.name)
        return CropRule(checkpoint.side, shortest, resample, scale_of(config), mean, std, margin)

    def prepare(self, image_rgb: npt.NDArray[np.uint8], found: Detections) -> Crops:
        """Return the crops of an upright (h, w, 3) uint8 RGB image. Thread-safe; Pillow lets other threads run
        meanwhile.
        """
        height, width = image_rgb.shape[:2]
        crop_of = np.full(len(found), -1, np.intp)
        windows, solid = self.windows(found.boxes, height, width)
        distinct, place = np.unique(windows[solid], axis=0, return_inverse=True)
        crop_of[solid] = place.reshape(-1)
        pixels = np.empty((len(distinct), self.side, self.side, 3), np.uint8)
        for number, (left, top, right, bottom) in enumerate(distinct.tolist()):
            pixels[number] = self.fit(image_rgb[top:bottom, left:right])
        return Crops(found, pixels, crop_of)

    def windows(
        self, boxes_xyxy: npt.NDArray[np.float32], height: int, width: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return (n, 4) whole pixels that each box's crop covers, and (n,) whether the box has an area inside the
        image.
        """
        boxes = boxes_xyxy.astype(np.float64)
        limits = np.array([width, height, width, height], np.float64)
        with np.errstate(invalid="ignore"):
            inside = np.clip(boxes, 0, limits)
            sizes = inside[:, 2:] - inside[:, :2]
            solid = np.asarray(np.isfinite(boxes).all(1) & (sizes > 0).all(1))
            beside = self.margin * (boxes[:, 2:] - boxes[:, :2])
            wide = np.concatenate([np.floor(boxes[:, :2] - beside), np.ceil(boxes[:, 2:] + beside)], 1)
            whole = np.where(solid[:, None], np.clip(wide, 0, limits), 0).astype(np.int64)
        return whole, solid

    def fit(self, crop_rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return (side, side, 3) uint8 of a crop (h, w, 3), as transformers' processor resizes and cuts it."""
        crop, filter_ = Image.fromarray(np.ascontiguousarray(crop_rgb)), Image.Resampling(self.resample)
        if not self.shortest:
            return np.asarray(crop.resize((self.side, self.side), filter_))
        height, width = crop_rgb.shape[:2]
        short, long = min(height, width), max(height, width)
        new_long = int(self.shortest * long / short)
        new_width, new_height = (self.shortest, new_long) if width <= height else (new_long, self.shortest)
        left, top = (new_width - self.side) // 2, (new_height - self.side) // 2
        if new_long > _LONGEST * self.side:
            across, down = width / new_width, height / new_height
            middle = (left * across, top * down, (left + self.side) * across, (top + self.side) * down)
            return np.asarray(crop.resize((self.side, self.side), filter_, box=middle))
        resized = np.asarray(crop.resize((new_width, new_height), filter_))
        return resized[top : top + self.side, left : left + self.side]


def _shortest(config: Mapping[str, Any], checkpoint: RescorerCheckpoint) -> int:
    """`CropRule.shortest`. Refused where images would not come out at the model's size."""
    side, name = checkpoint.side, checkpoint.name
    square = {"height": side, "width": side}
    size = config.get("size", {"shortest_edge": side} if checkpoint.compares else square)
    size = {"shortest_edge": size} if isinstance(size, int) else size
    cuts = config.get("do_center_crop", checkpoint.compares)
    crop = config.get("crop_size", square)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) and "longest_edge" not in size else None
    if config.get("do_resize", True) and (not cuts or crop == square):
        if size == square:
            return 0
        if cuts and isinstance(shortest, int) and shortest >= side:
            return shortest
    raise Refused(
        f"rescore.model: checkpoint {name}: the image processor's size {size} and crop_size {crop} do not give the "
        f"model's {side} pixels"
    )
