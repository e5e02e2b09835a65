"""An image that a detector looks at in several views: what they have found so far, and what it makes together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from labeler.images.tiling import View
from labeler.labels.detections import Detections

Step = TypeVar("Step")


class TiledImage:
    """Collects the results of an image's views, which come in any order.

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

    def result(self, merge: Callable[[Sequence[Detections]], Detections]) -> Any:
        """The image's detections, or why it has none: a view without a result may hide what nothing else shows.

        Args:
            merge: what all views have found together.
        """
        for number, view in enumerate(self.views):
            if not isinstance(self._found[number], Detections):
                return f"{self._found[number]}, in the view of {view}"
        return merge([self._found[number] for number in range(len(self.views))])


def one_ahead(images: Iterable[tuple[int, Sequence[Step]]], *, most_bytes: int) -> Iterator[Step]:
    """The steps of all images, in the order in which threads take them: the first step of each opens it.

    An image is opened before the image ahead of it is cut into its views, so that threads always have something to do;
    but not where both take more than `most_bytes`. So few images are open at a time, however many views they have.

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
