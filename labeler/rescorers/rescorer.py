"""CLIP and SigLIP as a rescorer: an image and its detections in, the same with a second score out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from labeler.detectors.loading import choose_device, choose_half, load_model
from labeler.labels.detections import Detections
from labeler.rescorers.checkpoint import RescorerCheckpoint
from labeler.rescorers.forward import DualEncoder
from labeler.rescorers.preprocess import CropRule, Crops
from labeler.rescorers.texts import Texts

log = logging.getLogger(__name__)

BOXES_ON_CPU, BOXES_ON_GPU = 16, 128  # crops in one forward pass
_IMAGES_ON_GPU = 4  # whose crops are put together; an image of 300 boxes has 45 MB of them


class Rescorer:
    """A loaded checkpoint with its vocabulary; for `UnitLabeler` a detector that finds no boxes, but scores them.

    `prepare_boxes` may be called by many threads; the other methods by one at a time.

    Attributes:
        boxes_per_batch: crops per forward pass; halved when the GPU's memory runs out.
        device, dtype: what is really used.
    """

    least_shape = None
    passes = 1

    def __init__(
        self,
        checkpoint: RescorerCheckpoint,
        texts: Texts,
        *,
        margin: float = 0.0,
        device: str = "auto",
        dtype: str = "auto",
        boxes_per_batch: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the model and encode the vocabulary, once.

        Args:
            texts: of the vocabulary, as `make_texts` spelled it for the checkpoint.
            margin: part of a box's width and height that is added on each side of it.
            device, dtype: as for the detector; norms and scores are computed in full precision.
            threads: torch's threads on a CPU; None leaves them.

        Raises:
            Refused: if anything is wrong with the model, in one line.
        """
        self._threads = threads
        self._take_threads()
        self.checkpoint, self.rule = checkpoint, CropRule.of(checkpoint, margin)
        self.device = choose_device(device)
        half = choose_half(dtype, self.device)
        self.dtype = str(half or torch.float32).removeprefix("torch.")
        self.boxes_per_batch = boxes_per_batch or (BOXES_ON_GPU if self.device.type == "cuda" else BOXES_ON_CPU)
        self.memory_halvings = 0
        model = load_model(checkpoint, self.device)
        self._forward = DualEncoder(model, texts, compares=checkpoint.compares, half=half)
        self._place = {id_: place for place, id_ in enumerate(texts.category_ids)}
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (self.rule.mean, self.rule.std)
        )

    @property
    def description(self) -> dict[str, str]:
        """Return what is really used, for a run's file metadata."""
        on_gpu = self.device.type == "cuda"
        return {
            "engine": f"boxes of another run, second scores by {self.checkpoint.architecture}",
            "dtype": self.dtype,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
        }

    @property
    def images_per_forward(self) -> int:
        """Return how many images are worth putting together."""
        return _IMAGES_ON_GPU if self.device.type == "cuda" else 1

    def passes_of(self, prepared: Any) -> int:
        """Forward passes of an image: they are counted as one, however many crops it has."""
        return self.passes

    def room_for(self, prepared: Any) -> int:
        """Return how many images are worth putting together."""
        return self.images_per_forward

    def prepare(self, image_rgb: Any, full_size: tuple[int, int] | None = None) -> Any:
        """Not for images without boxes."""
        raise TypeError("a rescorer needs the image's boxes: call prepare_boxes")

    def prepare_view(self, view_rgb: Any, view: Any) -> Any:
        """Not for parts of images."""
        raise TypeError("a rescorer looks at boxes, not at tiles")

    def merge_views(self, found: Sequence[Detections]) -> Detections:
        """Not for parts of images."""
        raise TypeError("a rescorer looks at boxes, not at tiles")

    def prepare_boxes(self, image_rgb: npt.NDArray[np.uint8], found: Detections) -> Crops:
        """Crop an upright (h, w, 3) uint8 RGB image to its boxes. CPU only, thread-safe."""
        return self.rule.prepare(image_rgb, found)

    def rescore(self, image_rgb: npt.NDArray[np.uint8], found: Detections) -> Detections:
        """Return the image's detections with `score2`: the whole way, for one upright (h, w, 3) uint8 RGB image."""
        return self.detect_prepared([self.prepare_boxes(image_rgb, found)])[0]

    def begin(self, batch: Sequence[Crops]) -> Iterator[tuple[Sequence[int], Callable[[], Sequence[Any]]]]:
        """As `detect_prepared`, in one step."""
        found = self.detect_prepared(batch)
        yield range(len(batch)), lambda: found

    def detect_prepared(self, batch: Sequence[Crops]) -> list[Detections]:
        """Return each image's detections with `score2`, null where a box has no area in the image or its score is NaN
        or infinite.

        Crops of all images share forward passes, `boxes_per_batch` at a time.
        """
        self._take_threads()
        pixels = np.concatenate([image.pixels for image in batch])
        scores = self._scores(pixels)
        starts = np.cumsum([0, *(len(image.pixels) for image in batch)])
        return [self._finish(image, scores[a:b]) for image, a, b in zip(batch, starts, starts[1:], strict=False)]

    def _finish(self, image: Crops, scores: npt.NDArray[np.float32]) -> Detections:
        second = np.full(len(image.found), np.nan, np.float32)
        columns = np.array([self._place.get(int(id_), -1) for id_ in image.found.category_ids], np.intp)
        known = (image.crop_of >= 0) & (columns >= 0)
        second[known] = scores[image.crop_of[known], columns[known]]
        second[~np.isfinite(second)] = np.nan
        return replace(image.found, more={**image.found.more, "score2": second})

    def _scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return (crops, categories) float32; NaN or infinite where float32 does not help."""
        parts: list[npt.NDArray[np.float32]] = [np.zeros((0, len(self._place)), np.float32)]
        done = 0
        while done < len(pixels):
            step = pixels[done : done + self.boxes_per_batch]
            try:
                found = self._score(step)
            except torch.OutOfMemoryError:
                if self.boxes_per_batch == 1:
                    raise
            else:
                parts.append(found)
                done += len(step)
                continue
            self._halve_batch()  # out here: in there the error still holds the memory of what failed
        return np.concatenate(parts)

    @torch.inference_mode()
    def _score(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        found = self._forward.score(self._normalized(pixels)).cpu().numpy()[:, : len(self._place)]
        bad = np.flatnonzero(~np.isfinite(found).all(1))
        if len(bad) and self._forward.half is not None:
            half, self._forward.half = self._forward.half, None
            try:
                found[bad] = self._forward.score(self._normalized(pixels[bad])).cpu().numpy()[:, : len(self._place)]
            finally:
                self._forward.half = half
        scores: npt.NDArray[np.float32] = found
        return scores

    def _normalized(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Return (n, 3, side, side) float32 on the device."""
        moved = torch.tensor(pixels, device=self.device).permute(0, 3, 1, 2)
        scaled = (moved.double() * self.rule.scale).float()
        return ((scaled - self._mean) / self._std).contiguous()

    def _halve_batch(self) -> None:
        self.boxes_per_batch //= 2
        self.memory_halvings += 1
        torch.cuda.empty_cache()
        log.warning("the GPU's memory ran out: continuing with %d crops per batch", self.boxes_per_batch)

    def _take_threads(self) -> None:
        """Each thread has its own number of torch threads, and a new one gets the number that was set last anywhere."""
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
