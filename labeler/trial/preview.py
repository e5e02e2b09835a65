"""Preview: label a seeded sample on this machine, without Ray, and draw it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from labeler import images, storage
from labeler.labeling.recipe import labeler_here
from labeler.labeling.resolve import Job, plan_input
from labeler.labels.contact_sheet import Tile, draw_contact_sheet
from labeler.labels.records import Row
from labeler.shards import Item
from labeler.trial.sample import sample_items


@dataclass(frozen=True)
class Preview:
    """A labeled sample and its contact sheet."""

    png: bytes = field(repr=False)
    statuses: dict[str, int]
    detections: int

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        return self.png


def preview(job: Job, *, sample: int, threshold: float) -> Preview:
    """Label `sample` images of the input and draw the boxes with a score of at least `threshold`."""
    config = job.config
    labeler = labeler_here(job)
    chosen = sample_items(config, plan_input(config), images=sample)
    names = {category.id: category.name for category in job.vocabulary.categories}
    tiles, statuses, detections = [], Counter[str](), 0
    for (shard_id, _), item in zip(chosen, job.with_names([item for _, item in chosen]), strict=True):
        (row,), _ = labeler.label(shard_id, [item])
        statuses[row.status] += 1
        detections += len(row.detections.above(threshold))
        tiles.append(_tile(row, item, names, threshold, config.detect.max_pixels))
    name = storage.basename(job.detector.name)
    title = f"{name}, {len(job.vocabulary)} categories, scores from {threshold:g}"  # plain ASCII: Pillow's own font
    png = draw_contact_sheet(tiles, max_tiles=len(tiles), title=title)
    return Preview(png, dict(statuses), detections)


def _tile(row: Row, item: Item, names: dict[int, str], threshold: float, max_pixels: int) -> Tile:
    if row.status not in ("labeled", "empty") or item.data is None:
        return Tile(None, caption=row.image_key, problem=f"{row.status}: {row.error}")
    shown = row.detections.above(threshold)
    pixels = images.decode(item.data, max_pixels=max_pixels).pixels
    return Tile(
        pixels,
        shown.boxes,
        [names[int(id_)] for id_ in shown.category_ids],
        shown.scores.tolist(),
        row.image_key,
        masks=() if shown.masks is None else list(shown.masks),
    )
