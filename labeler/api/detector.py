"""A detector of any family in a program: images in, detections out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from labeler import images
from labeler.api.configuration import as_config
from labeler.errors import Refused
from labeler.images.tiling import Tiling
from labeler.labels.detections import Detections
from labeler.vocabulary import Vocabulary

if TYPE_CHECKING:
    from labeler.labeling.detector import UnitDetector as Loaded

ImageLike: TypeAlias = "npt.NDArray[np.uint8] | bytes | str | PathLike[str]"
_UNUSED = "unused"  # a detector reads no input and writes no output


class Detector:
    """A loaded checkpoint with its vocabulary; made by `Detector.load`. Not for several threads at once.

    Attributes:
        vocabulary: the categories that it looks for; `category_ids` of detections are theirs.
    """

    def __init__(self, loaded: Loaded, vocabulary: Vocabulary, tiling: Tiling | None = None) -> None:
        self._loaded, self.vocabulary, self._tiling = loaded, vocabulary, tiling

    @staticmethod
    def load(
        model: str | PathLike[str],
        vocabulary: str | PathLike[str] | Sequence[str] | Mapping[str, Any],
        *,
        device: str = "auto",
        threads: int | None = None,
        **sections: Mapping[str, Any],
    ) -> Detector:
        """Load a checkpoint of any family that labeler knows, and encode the vocabulary, once.

        Args:
            model: Hugging Face Hub ID, local folder or URL.
            vocabulary: names, a built-in list (`coco`, `lvis_v1`, `objects365_v1`), a file, or `from_model` for a
                checkpoint with labels of its own.
            device: "auto", "cpu", "cuda", "cuda:1", ...
            threads: torch's threads on a CPU; None leaves them as they are.
            sections: further options by the sections of a config: `model`, `detect` and `prompts`, e.g.
                `detect={"score_floor": 0.2}`.

        Raises:
            Refused: the checkpoint, the vocabulary or an option is wrong, in one line.
        """
        from labeler.labeling.recipe import detector_recipe
        from labeler.labeling.resolve import resolve_job

        known = ("model", "detect", "prompts")
        if unknown := sorted(set(sections) - set(known)):
            raise Refused(f"{unknown[0]} is not an option of a detector; it has {', '.join(known)}")
        names = str(vocabulary) if isinstance(vocabulary, str | PathLike) else vocabulary
        place = {"device": device, **sections.get("model", {}), "name": str(model)}
        values = {**sections, "model": place, "vocabulary": names, "input": _UNUSED, "output": _UNUSED}
        job = resolve_job(as_config(values))
        return Detector(detector_recipe(job, threads=threads)(), job.vocabulary, job.config.detect.tiling)

    @property
    def description(self) -> dict[str, str]:
        """Engine, dtype and device that are really used."""
        return self._loaded.description

    def detect(self, images: Sequence[ImageLike]) -> list[Detections]:
        """Detect in some images, which share forward passes where their shapes allow.

        Args:
            images: each an (h, w, 3) uint8 RGB array, encoded bytes, or the path or URI of an image file, whose EXIF
                orientation is applied.

        Returns:
            One `Detections` per image: boxes (n, 4) xyxy in pixels, scores, category_ids, best first.

        Raises:
            LabelerError: an image cannot be read or decoded, or the detector finds NaN or infinity in one.
        """
        from labeler.labeling.tiled import detect_in_views

        found: list[Detections] = []
        for place, each in enumerate(detect_in_views(self._loaded, [_pixels(image) for image in images], self._tiling)):
            if not isinstance(each, Detections):
                raise Refused(f"image {place}: {each}")
            found.append(each)
        return found


def _pixels(picture: ImageLike) -> npt.NDArray[np.uint8]:
    from labeler import storage

    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise Refused(f"an image is (h, w, 3) uint8 RGB, got {picture.dtype} {picture.shape}")
        return picture
    data = picture if isinstance(picture, bytes) else storage.read_bytes(str(picture))
    return images.decode(data).pixels
