"""Multi-scale deformable sampling (arXiv:2010.04159): a weighted sum of bilinear samples from all feature levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from labeler.detectors.cuda import to_device

LevelShapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Grid:
    """The feature levels as the sampler needs them; one entry per (level, point), in that order.

    Attributes:
        level_shapes: (height, width) of each level.
        points: of each level.
        widths, heights: (levels points,) float32.
        starts: (levels points,) int32, where the level begins in the row of all positions.
    """

    level_shapes: LevelShapes
    points: int
    widths: Tensor
    heights: Tensor
    starts: Tensor

    @staticmethod
    def of(level_shapes: LevelShapes, points: int, device: torch.device) -> Grid:
        sizes = torch.tensor(level_shapes, dtype=torch.int32, device=device).repeat_interleave(points, 0)
        areas = [height * width for height, width in level_shapes]
        starts = torch.tensor([sum(areas[:level]) for level in range(len(areas))], dtype=torch.int32, device=device)
        return Grid(level_shapes, points, sizes[:, 1].float(), sizes[:, 0].float(), starts.repeat_interleave(points))

    def to(self, device: torch.device) -> Grid:
        """There, by copies that nothing waits for."""
        tensors = (to_device(part, device) for part in (self.widths, self.heights, self.starts))
        return Grid(self.level_shapes, self.points, *tensors)

    @property
    def positions(self) -> int:
        return sum(height * width for height, width in self.level_shapes)


def sample(values: Tensor, raw: Tensor, references: Tensor, grid: Grid) -> Tensor:
    """Return what each query sees: (batch, queries, heads width) in the dtype of the values.

    Coordinates, weights and sums are float32.

    Args:
        values: (batch, positions, heads, width), the levels one after the other.
        raw: (batch, queries, 3, heads, levels points): offsets along x, offsets along y, and logits of the weights,
            as the linear layers give them.
        references: (batch or 1, queries, 2 or 4) float32, cx, cy and where boxes refer w, h, in parts of the image.
    """
    batch, positions, heads, width = values.shape
    rows, weights = corners(raw, references, grid.widths, grid.heights, grid.starts, heads, grid.points)
    first = torch.arange(0, batch * positions * heads, positions * heads, dtype=torch.int32, device=values.device)
    rows += first.view(batch, 1, 1, 1, 1)
    flat = values.reshape(-1, width)
    found = functional.embedding_bag(
        rows.flatten(3).flatten(0, 2),
        flat if flat.dtype == torch.float32 else flat.float(),
        mode="sum",
        per_sample_weights=weights.flatten(3).flatten(0, 2),
    )
    return found.view(batch, raw.shape[1], heads * width).to(values.dtype)


def corners(
    raw: Tensor, references: Tensor, widths: Tensor, heights: Tensor, starts: Tensor, heads: int, points: int
) -> tuple[Tensor, Tensor]:
    """Return the four positions around every sampling point, and what each counts for.

    Positions outside of a level count 0, as with `grid_sample`'s zero padding.

    Returns:
        Two tensors (batch, queries, heads, 4, levels points): rows of one image's (position, head) table int32, and
        weights float32.
    """
    raw = raw.float()
    x, y = _pixels(raw[:, :, 0], references, 0, widths, points), _pixels(raw[:, :, 1], references, 1, heights, points)
    weights = raw[:, :, 2].softmax(-1)
    left, top = x.floor(), y.floor()
    x, y = x - left, y - top
    at_left, at_right = _inside(left, 1 - x, widths), _inside(left + 1, x, widths)
    at_top, at_bottom = _inside(top, 1 - y, heights), _inside(top + 1, y, heights)
    head = torch.arange(heads, dtype=torch.int32, device=raw.device)[:, None]
    rows, counts = [], []
    for row, share in (at_top, at_bottom):
        begin = (row * widths).int() + starts
        part = weights * share
        for column, other in (at_left, at_right):
            rows.append((begin + column.int()) * heads + head)
            counts.append(part * other)
    return torch.stack(rows, -2), torch.stack(counts, -2)


def _pixels(offsets: Tensor, references: Tensor, axis: int, size: Tensor, points: int) -> Tensor:
    """Return coordinates along one axis, (batch, queries, heads, levels points), where the first
    pixel's center is 0.
    """
    centre = references[..., axis, None, None] * size - 0.5
    if references.shape[-1] == 2:  # offsets count pixels of the level
        return centre + offsets
    return centre + offsets * (references[..., 2 + axis, None, None] * size * (0.5 / points))


def _inside(place: Tensor, share: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return a coordinate moved into the level, and its share, 0 if it was outside."""
    kept = place.clamp(min=0).minimum(size - 1)
    return kept, torch.where(kept == place, share, 0.0)


Sampler = Callable[[Tensor, Tensor, Tensor, Grid], Tensor]
