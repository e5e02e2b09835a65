"""SAM, SAM-HQ, SAM 2 and SAM 3 as a segmenter: an image and its detections in, the same with masks out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labeler.detectors.loading import choose_device, choose_half
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.labels.masks import Mask
from labeler.prompts.sam3.plan import PhrasePasses
from labeler.segmenters.checkpoint import SegmenterCheckpoint, resolve_segmenter
from labeler.segmenters.enlarge import Enlarging
from labeler.segmenters.forward import SamForward, load_segmenter
from labeler.segmenters.preprocess import MaskPreprocessing, PreparedForMasks
from labeler.segmenters.sam3 import Sam3Forward

log = logging.getLogger(__name__)

BOXES_ON_CPU, BOXES_ON_GPU = 8, 32  # prompts in one forward pass; one takes some 30 MB in float32 at the usual sizes
ALL_BOXES = 1 << 20  # in one forward pass: it is one for each phrase, however many boxes are of it
MARGIN = 0.1  # a mask may leave its box by this part of the box's side ...
MARGIN_CELLS = 2  # ... or by that many cells of the logits' grid, if that is more


@dataclass(frozen=True)
class Sketch:
    """The model's output for one image, not yet at the image's size.

    Attributes:
        rows: (k,) which detections got an answer.
        logits: (k, g, g) float32 on the CPU, above 0 inside.
        quality: (k,) float32, the IoU the model expects.
        height, width: of the upright image.
    """

    detections: Detections
    rows: npt.NDArray[np.intp]
    logits: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float32]
    height: int
    width: int


@dataclass(frozen=True)
class Segmented:
    """Detections of one image with their masks.

    Attributes:
        detections: with masks where there are any.
        lost: detections whose mask came out NaN or infinite, and which have none for that.
    """

    detections: Detections
    lost: int = 0


class Sam:
    """A loaded checkpoint of the SAM family.

    `prepare` and `draw` may be called by many threads; `sketch` by one at a time.

    Attributes:
        boxes_per_batch: prompts per forward pass; halved when the GPU's memory runs out.
        device, dtype: what is really used.
    """

    def __init__(
        self,
        model: str | Path | SegmenterCheckpoint,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        threshold: float = 0.25,
        max_masks: int = 100,
        boxes_per_batch: int | None = None,
        threads: int | None = None,
        phrases: PhrasePasses | None = None,
    ) -> None:
        """Load the model.

        Args:
            model: Hub ID, local folder or URL, as `resolve_segmenter` takes it, or what that returned: then
                the weights are not read for a digest again.
            device, dtype: as for `GroundingDino`; prompts and the final masks are computed in full precision.
            threshold: only detections with at least this score get a mask.
            max_masks: per image, the best; 0 for no cap.
            boxes_per_batch: prompts per forward pass; None for 8 on a CPU and 32 on a GPU. SAM 3 has no such prompts:
                all.
            threads: torch's threads on a CPU; None leaves them.
            phrases: of the detections' categories, for SAM 3, which looks for them; None for the others.

        Raises:
            Refused: anything wrong with the model or the arguments, in one line.
        """
        if not 0 <= threshold <= 1 or max_masks < 0 or (boxes_per_batch is not None and boxes_per_batch < 1):
            raise Refused(
                "masks: threshold is 0 to 1, max_masks at least 0 and boxes_per_batch at least 1; "
                f"got {threshold}, {max_masks}, {boxes_per_batch}"
            )
        if threads is not None:
            torch.set_num_threads(threads)
        if not isinstance(model, SegmenterCheckpoint):
            model = resolve_segmenter(model, revision=revision)
        self.checkpoint = model
        self.preprocessing = MaskPreprocessing.of(self.checkpoint)
        self.device = choose_device(device)
        half = choose_half(dtype, self.device)
        self.dtype = str(half or torch.float32).removeprefix("torch.")
        self.threshold, self.max_masks = threshold, max_masks
        self.memory_halvings = 0
        self.boxes_per_batch = boxes_per_batch or (BOXES_ON_GPU if self.device.type == "cuda" else BOXES_ON_CPU)
        loaded = load_segmenter(self.checkpoint, self.device)
        self._forward: SamForward | Sam3Forward
        if phrases is None:
            self._forward = SamForward(loaded, half=half)
        else:
            self._forward, self.boxes_per_batch = Sam3Forward(loaded, phrases, half=half), ALL_BOXES
        self._scale = torch.tensor(self.preprocessing.scale, dtype=torch.float64)
        self._mean = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)

    @property
    def description(self) -> dict[str, str]:
        """Return what is really used, for a run's file metadata."""
        return {"segmenter": self.checkpoint.architecture, "segmenter_dtype": self.dtype}

    def prepare(self, image_rgb: npt.NDArray[np.uint8]) -> PreparedForMasks:
        """Resize an upright (h, w, 3) uint8 RGB image for this model. CPU only, thread-safe."""
        return self.preprocessing.prepare(image_rgb)

    def segment(self, image_rgb: npt.NDArray[np.uint8], detections: Detections) -> Detections:
        """Return the image's detections with masks: the whole way, for one upright (h, w, 3) uint8 RGB image."""
        return self.draw(self.sketch(self.prepare(image_rgb), detections)).detections

    def sketch(self, image: PreparedForMasks, detections: Detections) -> Sketch:
        """Return the model's part: the image once, then the boxes of its best detections,
        `boxes_per_batch` at a time.
        """
        rows = self._chosen(detections, image.height, image.width)
        if not len(rows):
            side = 0
            nothing = np.zeros((0, side, side), np.float32)
            return Sketch(detections, rows, nothing, np.zeros(0, np.float32), image.height, image.width)
        boxes = self.preprocessing.to_model(detections.boxes[rows], image.height, image.width)
        category_ids = detections.category_ids[rows]
        logits, quality = self._predict(image, boxes, category_ids)
        if self._forward.half is not None and not _finite(logits, quality).all():
            logits, quality = self._in_float32(image, boxes, category_ids)
        return Sketch(detections, rows, logits, quality, image.height, image.width)

    def draw(self, sketch: Sketch) -> Segmented:
        """Return the rest: each mask at the image's size, inside its box and a margin. CPU only, thread-safe, needs no
        model.

        A mask without a pixel is none.
        """
        masks: list[Mask | None] = [None] * len(sketch.detections)
        lost = 0
        for row, logits, quality in zip(sketch.rows, sketch.logits, sketch.quality, strict=True):
            if not (np.isfinite(logits).all() and np.isfinite(quality)):
                lost += 1
                continue
            masks[row] = self._mask(logits, float(quality), sketch.detections.boxes[row], sketch.height, sketch.width)
        found = sketch.detections.with_masks(masks)
        return Segmented(found if found.count_masks() else replace(found, masks=None), lost)

    def _chosen(self, detections: Detections, height: int, width: int) -> npt.NDArray[np.intp]:
        """Return rows of the best detections at or above the threshold whose box has an area inside the image."""
        with np.errstate(invalid="ignore"):
            inside = np.clip(detections.boxes, 0, [width, height, width, height])
            solid = np.isfinite(detections.boxes).all(1) & (inside[:, 2:] > inside[:, :2]).all(1)
            rows = np.flatnonzero(solid & (detections.scores >= np.float32(self.threshold)))
        best = rows[np.argsort(-detections.scores[rows], kind="stable")]
        return best[: self.max_masks] if self.max_masks else best

    def _predict(
        self, image: PreparedForMasks, boxes: npt.NDArray[np.float64], category_ids: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return (n, g, g) logits and (n,) qualities of all boxes, on the CPU."""
        with torch.inference_mode():
            embedding = self._encoded(self._normalized(image))
            parts: list[tuple[Tensor, Tensor]] = []
            done = 0
            while done < len(boxes):
                step = torch.from_numpy(boxes[done : done + self.boxes_per_batch]).to(self.device)
                try:
                    ids = category_ids[done : done + self.boxes_per_batch]
                    logits, quality = self._forward.decode(embedding, step, ids)
                except torch.OutOfMemoryError:
                    if self.boxes_per_batch == 1:
                        raise
                else:
                    parts.append((logits.cpu(), quality.cpu()))
                    done += len(step)
                    continue
                self._halve_batch()  # out here: in there the error still holds the memory of what failed
        return tuple(torch.cat(column).numpy() for column in zip(*parts, strict=True))  # type: ignore[return-value]

    def _encoded(self, pixels: Tensor) -> Any:
        """Return the image's features. Where memory runs out, again without what the detector has set aside."""
        try:
            return self._forward.encode(pixels)
        except torch.OutOfMemoryError:
            pass  # out here the error no longer holds the memory of what failed
        torch.cuda.empty_cache()
        log.warning("the GPU's memory ran out with an image for masks: what other models had set aside is given back")
        return self._forward.encode(pixels)

    def _in_float32(
        self, image: PreparedForMasks, boxes: npt.NDArray[np.float64], category_ids: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Again without half precision, which overflows."""
        half, self._forward.half = self._forward.half, None
        try:
            return self._predict(image, boxes, category_ids)
        finally:
            self._forward.half = half

    def _halve_batch(self) -> None:
        self.boxes_per_batch //= 2
        self.memory_halvings += 1
        torch.cuda.empty_cache()
        log.warning("the GPU's memory ran out: continuing with %d boxes per batch of masks", self.boxes_per_batch)

    def _normalized(self, image: PreparedForMasks) -> Tensor:
        """Return (1, 3, side, side) float32 on the device: normalized first and padded with zeros then, as theirs."""
        pixels = torch.tensor(image.pixels, device=self.device)
        scaled = (pixels.permute(2, 0, 1)[None].double() * self._scale).float()
        normalized = (scaled - self._mean) / self._std
        below, beside = (self.preprocessing.side - side for side in image.pixels.shape[:2])
        return torch.nn.functional.pad(normalized, (0, beside, 0, below)).contiguous()

    def _mask(
        self, logits: npt.NDArray[np.float32], quality: float, box: npt.NDArray[np.float32], height: int, width: int
    ) -> Mask | None:
        enlarging = self._enlarging(logits.shape[0], height, width)
        window = window_of(box, height, width, self._cell(logits.shape[0], height, width))
        inside = enlarging.inside(logits, window)
        if not inside.any():
            return None
        return Mask.of_window(inside, window[0], window[1], height=height, width=width, quality=quality)

    def _enlarging(self, grid: int, height: int, width: int) -> Enlarging:
        """SAM's logits cover the padded square, and its pixels are resized twice; SAM 2's cover the image."""
        if not self.preprocessing.keeps_aspect:
            return Enlarging(((grid, height),), ((grid, width),))
        side = self.preprocessing.side
        new_height, new_width = self.preprocessing.resized_shape(height, width)
        return Enlarging(((grid, side), (new_height, height)), ((grid, side), (new_width, width)))

    def _cell(self, grid: int, height: int, width: int) -> tuple[float, float]:
        """Width and height of a cell of the logits' grid, in pixels of the image."""
        new_height, new_width = self.preprocessing.resized_shape(height, width)
        cells_per_pixel = grid / self.preprocessing.side
        return width / (new_width * cells_per_pixel), height / (new_height * cells_per_pixel)


def window_of(
    box_xyxy: npt.NDArray[np.float32], height: int, width: int, cell: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return the whole pixels that a box's mask may cover: the box and a margin, inside the image.

    The margin is there because detectors' boxes are a little off. It has an end because a mask far outside of its box
    is another object's, and because the work goes with the window.

    Args:
        cell: width and height of a cell of the logits' grid, in pixels of the image.
    """
    x_min, y_min, x_max, y_max = (float(side) for side in box_xyxy)
    beside = max(MARGIN * (x_max - x_min), MARGIN_CELLS * cell[0])
    above = max(MARGIN * (y_max - y_min), MARGIN_CELLS * cell[1])
    return (
        max(0, int(np.floor(x_min - beside))),
        max(0, int(np.floor(y_min - above))),
        min(width, int(np.ceil(x_max + beside))),
        min(height, int(np.ceil(y_max + above))),
    )


def _finite(logits: npt.NDArray[np.float32], quality: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return (n,) which masks are numbers throughout."""
    finite: npt.NDArray[np.bool_] = np.isfinite(logits).all((1, 2)) & np.isfinite(quality)
    return finite
