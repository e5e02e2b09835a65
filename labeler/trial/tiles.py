"""How often a run with tiles looks at an image: counted from the headers of a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from labeler import images
from labeler.images.tiling import Tiling
from labeler.labeling.resolve import Job
from labeler.runs.plan import PlannedShard
from labeler.trial.sample import sample_items

COUNTED_IMAGES = 64


def describe_tiles(job: Job, plan: Sequence[PlannedShard]) -> Iterator[str]:
    """Yield lines about tiles and the passes they take; none where the run has no tiles.

    Raises:
        Refused: there is no image in the input, see `sample_items`.
    """
    tiling, passes = job.config.detect.tiling, job.plan.passes
    if tiling is None:
        return
    yield (
        f"tiles    {tiling.side} x {tiling.side} pixels, overlap {tiling.overlap:.0%}, of images with a side of more "
        f"than {tiling.min_side} pixels; one view more of each such image as a whole"
    )
    items = sample_items(job.config, plan, images=COUNTED_IMAGES)
    sizes = [images.stored_size(item.data) for _, item in items if item.data is not None and item.error is None]
    known = [size for size in sizes if size is not None]
    fitting = [size for size in known if not tiling.problem(*size)]
    too_many = len(known) - len(fitting)
    if too_many:
        yield (
            f"         {too_many} of {len(known)} sampled images have more than detect.max_tiles={tiling.most} tiles: "
            "they get the status too_large"
        )
    if fitting:
        yield f"         {_views(tiling, fitting, passes)}"


def _views(tiling: Tiling, sizes: Sequence[tuple[int, int]], passes: int) -> str:
    """Return what the images of these sizes take."""
    counts = [tiling.views_count(*size) for size in sizes]
    tiled = sum(tiling.applies(*size) for size in sizes)
    if not tiled:
        return f"none of {len(sizes)} sampled images is that large: no image of them is tiled"
    mean = sum(counts) / len(counts)
    return (
        f"{tiled} of {len(sizes)} sampled images are tiled: {min(counts)} to {max(counts)} views of an image, on the "
        f"mean {mean:.1f} views and {mean * passes:.1f} passes"
    )
