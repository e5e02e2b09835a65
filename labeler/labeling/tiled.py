"""An image that a detector looks at in several views: what they have found so far, and what it makes together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from labeler.images.tiling import Tiling, View
from labeler.labeling.detector import UnitDetector
from labeler.labels.detections import Detections

Step = TypeVar("Step")


class TiledImage:
    """A collector of the results of an image's views, which come in any order.

    Attributes:
        views: of the image.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self.views = views
        self._found: dict[int, Any] = {}

    def add(self, number: int, result: Any) -> bool:
        """Take what a detector says of a view; whether it was the last that was missing."""
        self._found[number] = result
        return len(self._found) == len(self.views)

    def result(self, merge: Callable[[Sequence[Detections]], Detections]) -> Detections | str:
        """Return the image's detections, or why it has none: a view without a result may hide what nothing else shows.

        Args:
            merge: what all views have found together.
        """
        for number, view in enumerate(self.views):
            if not isinstance(self._found[number], Detections):
                return f"{self._found[number]}, in the view of {view}"
        return merge([self._found[number] for number in range(len(self.views))])


def cut(pixels: npt.NDArray[np.uint8], view: View) -> npt.NDArray[np.uint8]:
    """Return (height, width, 3) of a view of an image; a copy of a tile, which would keep the whole image in memory."""
    part = pixels[view.top : view.top + view.height, view.left : view.left + view.width]
    return part if part.shape == pixels.shape else part.copy()


def detect_in_views(
    detector: UnitDetector, pictures: Sequence[npt.NDArray[np.uint8]], tiling: Tiling | None
) -> list[Detections | str]:
    """Return what a detector finds in (h, w, 3) uint8 RGB images, in tiles where they are tiled; or why one has no
    result.
    """
    prepared: list[Any] = []
    places: list[tuple[str, TiledImage | None, slice]] = []
    for pixels in pictures:
        problem = tiling.problem(*pixels.shape[:2]) if tiling else ""
        views = tiling.views(*pixels.shape[:2]) if tiling and not problem else ()
        first = len(prepared)
        if not problem:
            prepared += [detector.prepare_view(cut(pixels, view), view) for view in views] or [detector.prepare(pixels)]
        places.append((problem, TiledImage(views) if views else None, slice(first, len(prepared))))
    results = detector.detect_prepared(prepared)
    return [problem or _result(detector, tiled, results[place]) for problem, tiled, place in places]


def _result(detector: UnitDetector, tiled: TiledImage | None, results: Sequence[Any]) -> Detections | str:
    if tiled is None:
        return results[0] if isinstance(results[0], Detections) else str(results[0])
    for number, each in enumerate(results):
        tiled.add(number, each)
    return tiled.result(detector.merge_views)


def one_ahead(images: Iterable[tuple[int, Sequence[Step]]], *, most_bytes: int) -> Iterator[Step]:
    """Yield the steps of all images, in the order in which threads take them: the first step of each opens it.

    An image is opened before the image ahead of it is cut into its views, so that threads always have something to do;
    but not where both take more than `most_bytes`. That bounds how many images are open at a time, however many views
    they have.

    Args:
        images: the bytes of each while it is open, and its steps; those of one step are never open in between.
    """
    behind: Sequence[Step] = ()
    open_bytes = 0
    for size, (first, *others) in images:
        if open_bytes + size > most_bytes:
            yield from behind
            behind, open_bytes = (), 0
        yield first
        yield from behind
        behind, open_bytes = others, size if others else 0
    yield from behind
