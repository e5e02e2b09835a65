"""A user's own `Detector` as a detector of labeler: its boxes are checked, clipped, cut at the floor, merged and
capped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from labeler.checkpoints import DetectorCheckpoint
from labeler.config import DetectConfig, ModelConfig
from labeler.detectors.agreement import check_picture
from labeler.detectors.loading import choose_device, choose_half
from labeler.detectors.preprocess import DetectError
from labeler.errors import LabelerError, Refused
from labeler.images.tiling import View
from labeler.labels.boxes import area, clip_to_image
from labeler.labels.detections import Detections
from labeler.labels.in_views import in_image
from labeler.labels.merge import merge
from labeler.prompts import UserModule
from labeler.prompts.user_module import described
from labeler.vocabulary import Vocabulary

Array = npt.NDArray[Any]


class OwnDetector(Protocol):
    """The protocol of a module's `Detector`; it is made by `Detector(folder, categories, device, options)`.

    folder: of the checkpoint's files on this machine, a str. categories: `labeler.vocabulary.Category` each.
    device: "cpu" or "cuda". options: those of `model.options`, and "dtype" where OPTIONS has it: "float32", "float16"
    or "bfloat16". It may have `description`, a dict of texts, for the metadata of a run's files.
    """

    def detect(self, images: list[npt.NDArray[np.uint8]]) -> Sequence[Any]:
        """Return what it finds in upright (h, w, 3) uint8 RGB images of any sizes, for each in their order.

        Returns:
            For each image (boxes, scores, category_ids), arrays or tensors: boxes (n, 4) two corners in pixels of the
            image, scores (n,) in [0, 1], ids (n,) of the categories; or an exception that says why it has none.
        """


@dataclass(frozen=True)
class _AsItIs:
    """An image without a `shape`: those of several sizes may be handed over together."""

    pixels: npt.NDArray[np.uint8]
    view: View | None = None


class UserDetector:
    """A `labeling.Detector` around a user's.

    `prepare` may be called by many threads; the other methods by one at a time.
    """

    least_shape = None
    images_per_forward = 1
    passes = 1
    memory_halvings = 0

    def passes_of(self, prepared: Any) -> int:
        return self.passes

    def room_for(self, prepared: Any) -> int:
        return self.images_per_forward

    def __init__(
        self,
        checkpoint: DetectorCheckpoint,
        module: UserModule,
        vocabulary: Vocabulary,
        *,
        model: ModelConfig,
        detect: DetectConfig,
        threads: int | None = None,
    ) -> None:
        """Make the user's detector, and have it look at one synthetic image.

        Args:
            model: its device, dtype and options count here.
            threads: torch's threads on a CPU; None leaves them.

        Raises:
            Refused: it cannot be made, or what it finds in the image is not as it has to be.
        """
        self._module, self._vocabulary, self._detect, self._threads = module, vocabulary, detect, threads
        self._floor = detect.floor(checkpoint.family.score_floor)
        self._ids = np.array([category.id for category in vocabulary.categories])
        self._take_threads()
        device, options = choose_device(model.device), dict(model.options)
        self._description = {"engine": f"{module.name} {module.version}", "device": device.type}
        if device.type == "cuda":
            self._description["device"] = torch.cuda.get_device_name(device)
        if "model.dtype" in checkpoint.family.options:
            options["dtype"] = str(choose_half(model.dtype, device) or torch.float32).removeprefix("torch.")
            self._description["dtype"] = options["dtype"]
        make, folder = module.detector_class(), str(checkpoint.folder)
        self._own: OwnDetector = self._started(lambda: make(folder, vocabulary.categories, str(device), options))
        (tried,) = self._started(lambda: self.detect_prepared([self.prepare(check_picture())]))
        if isinstance(tried, DetectError):
            raise Refused(f"model.family {module.name} does not work on a synthetic image: {tried}")

    def _started(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except LabelerError:
            raise
        except Exception as error:
            raise Refused(f"model.family {self._module.name} does not start: {described(error)}") from error

    @property
    def description(self) -> dict[str, str]:
        """Module and version, device, its dtype if it has one, and what it says of itself."""
        own = getattr(self._own, "description", {})
        return {**{str(name): str(value) for name, value in dict(own).items()}, **self._description}

    def prepare(self, image_rgb: npt.NDArray[np.uint8], full_size: tuple[int, int] | None = None) -> _AsItIs:
        """Return the image as it is."""
        return _AsItIs(image_rgb)

    def prepare_view(self, view_rgb: npt.NDArray[np.uint8], view: View) -> _AsItIs:
        """Return the pixels of one view of an image as they are; its detections are for `merge_views`."""
        return _AsItIs(view_rgb, view)

    def detect_prepared(self, batch: Sequence[_AsItIs]) -> list[Detections | DetectError]:
        """Return detections in order; an image that fails has its DetectError. What the user's code raises is not
        caught.
        """
        self._take_threads()
        try:
            found = self._found([image.pixels for image in batch])
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        else:
            return [self._checked(image, one) for image, one in zip(batch, found, strict=True)]
        torch.cuda.empty_cache()  # out here: in there the error still holds the memory of what failed
        half = len(batch) // 2
        return self.detect_prepared(batch[:half]) + self.detect_prepared(batch[half:])

    def begin(self, batch: Sequence[_AsItIs]) -> Iterator[tuple[Sequence[int], Callable[[], Sequence[Any]]]]:
        """Yield the same, all in one step."""
        found = self.detect_prepared(batch)
        yield range(len(batch)), lambda: found

    def _found(self, images: list[npt.NDArray[np.uint8]]) -> Sequence[Any]:
        found = self._own.detect(images)
        if len(found) != len(images):
            raise ValueError(f"{self._module.name} gave results of {len(found)} images for {len(images)}")
        return found

    def _checked(self, image: _AsItIs, found: Any) -> Detections | DetectError:
        """Return one image's result as detections, or what is wrong with it."""
        if isinstance(found, Exception):
            return DetectError(described(found))
        height, width = image.pixels.shape[:2]
        boxes, scores, ids = _arrays(found)
        if problem := self._problem(boxes, scores, ids):
            return DetectError(problem)
        clipped = clip_to_image(boxes, height=height, width=width)
        kept = (scores >= self._floor) & (area(clipped) > 0)
        good = Detections.of(clipped[kept], scores[kept], ids[kept])
        return self.merge_views([good]) if image.view is None else in_image(good, image.view)

    def merge_views(self, found: Sequence[Detections]) -> Detections:
        """Return the final detections of an image from those of all its views."""
        return merge(
            Detections.concat(found),
            nms_iou=self._detect.nms_iou,
            max_detections=self._detect.max_detections,
            negative_ids=self._vocabulary.negative_ids,
        )

    def _problem(self, boxes: Array, scores: Array, ids: Array) -> str:
        """Return what is not as it has to be; "" if all is well."""
        n = len(scores) if scores.ndim == 1 else -1
        if n < 0 or ids.shape != (n,) or boxes.shape != ((n, 4) if n or boxes.ndim == 2 else (0,)):
            shapes = f"{boxes.shape}, {scores.shape}, {ids.shape}"
            return f"boxes (n, 4), scores (n,) and category ids (n,) are needed, the detector gave {shapes}"
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            return "the detector's scores or boxes are NaN or infinite"
        if n and not (scores.min() >= 0 and scores.max() <= 1):
            return f"scores are from 0 to 1, the detector gave {scores.min():g} to {scores.max():g}"
        unknown = ids[~np.isin(ids, self._ids)]
        if len(unknown):
            return f"the detector gave category id {unknown[0]}, which the vocabulary does not have"
        return ""

    def _take_threads(self) -> None:
        """Each thread has its own number of torch threads."""
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)


def _arrays(found: Any) -> tuple[Array, Array, Array]:
    """Return (boxes, scores, category ids) on the host; ValueError for what is not three of them."""
    boxes, scores, ids = (
        (part.float() if part.is_floating_point() else part).detach().cpu().numpy()
        if isinstance(part, torch.Tensor)
        else part
        for part in found
    )
    return np.asarray(boxes, np.float32), np.asarray(scores, np.float32), np.asarray(ids)
