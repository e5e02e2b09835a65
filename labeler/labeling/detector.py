"""What the labeling of units asks of a detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from labeler.images import Image, LeastShape
from labeler.images.tiling import View
from labeler.labels.detections import Detections

# (places in the batch, what waits for their results) of each forward pass, when it has started
Begun = Iterator[tuple[Sequence[int], Callable[[], Sequence[Any]]]]


class UnitDetector(Protocol):
    """The interface of detectors. A subclass only defines how one batch is processed."""

    @property
    def description(self) -> dict[str, str]:
        """Engine, dtype and device really used; goes into each unit's file metadata."""
        return {}

    @property
    def least_shape(self) -> LeastShape | None:
        """The least (height, width) to decode an upright image of a (height, width) at; None: always all of it.

        Where there is one, `prepare` is told the (height, width) that an image has in full, the frame of its boxes.
        """
        return None

    @property
    def images_per_forward(self) -> int:
        """Return how many images are worth putting together; prepared ones with a `group` only with
        those of the same.
        """
        return 1

    @property
    def passes(self) -> int:
        """Forward passes per image, or per view of a tiled one."""
        return 1

    def passes_of(self, prepared: Any) -> int:
        """Forward passes of a prepared image, which may be asked for some names alone."""
        return self.passes

    def room_for(self, prepared: Any) -> int:
        """Return how many images like a prepared one can share a forward pass."""
        return self.images_per_forward

    @property
    def memory_halvings(self) -> int:
        """Return how often a batch was halved so far because the GPU's memory ran out."""
        return 0

    def prepare(self, image_rgb: Any, full_size: tuple[int, int] | None = None) -> Any:
        """Resize one (h, w, 3) uint8 upright RGB image for the model; thread-safe, on the CPU."""
        return image_rgb

    def prepare_view(self, view_rgb: Any, view: View) -> Any:
        """As `prepare`, the pixels of one view of an image.

        Its detections are in the frame of the image, see `in_image`, and not merged yet.
        """
        raise NotImplementedError(f"{type(self).__name__} looks at whole images alone")

    def merge_views(self, found: Sequence[Detections]) -> Detections:
        """Return the final detections of an image from those of all its views."""
        raise NotImplementedError(f"{type(self).__name__} looks at whole images alone")

    def detect_prepared(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Return detections, or the error that says why one image has none, for each prepared image."""

    def begin(self, batch: Sequence[Any]) -> Begun:
        """Return the same, one forward pass a step, so that one is under way while the host makes rows of the one
        before.
        """
        found = self.detect_prepared(batch)
        yield range(len(batch)), lambda: found


@runtime_checkable
class BoxScorer(Protocol):
    """The interface of detectors that score the boxes of another run instead of finding their own."""

    def prepare_boxes(self, image_rgb: Any, found: Detections) -> Any:
        """Make one (h, w, 3) uint8 upright RGB image ready, and its detections; thread-safe, on the CPU."""


def prepare_whole(detector: UnitDetector | None, image: Image, found: Detections | None) -> Any:
    """Make an image ready for a detector, in one piece.

    Args:
        detector: None: the result is what was found.
        found: by another run; a detector then has to be a `BoxScorer`.
    """
    if detector is None:
        return found
    if found is not None and isinstance(detector, BoxScorer):
        return detector.prepare_boxes(image.pixels, found)
    return detector.prepare(image.pixels, *(() if image.full_size is None else (image.full_size,)))
