"""Settings for decoding, merging and storing detections."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from labeler.byte_budget import MAX_PIXELS
from labeler.config.section import OF_FAMILY, OF_LABELER, OF_TILES, ROWS, Section, marked
from labeler.images.tiling import Tiling


class ImageSize(Section):
    """The size that images are resized to, with their aspect ratio kept."""

    shortest_edge: int = Field(gt=15)
    """The shortest edge in pixels, unless the longest edge would exceed its limit."""
    longest_edge: int = Field(gt=15)
    """The most pixels of the longest edge."""

    @property
    def edges(self) -> tuple[int, int]:
        """(shortest, longest) in pixels."""
        return self.shortest_edge, self.longest_edge


class DetectConfig(Section):
    """Settings for decoding, merging and storing detections."""

    score_floor: Annotated[float | None, ROWS] = Field(None, ge=0, le=1)
    """Store boxes with at least this score. By default the detector family's, which is 0.05 for Grounding DINO."""
    max_detections: Annotated[int, ROWS] = Field(300, ge=0)
    """Store at most this many boxes per image, the best. 0 means no limit."""
    score: Annotated[Literal["mean", "max"], ROWS, OF_FAMILY] = "mean"
    """How the scores of a phrase's tokens become one score."""
    assignment: Annotated[Literal["argmax", "flattened"], ROWS, OF_LABELER] = "argmax"
    """`argmax` gives each query its best category. `flattened` ranks all (query, category) pairs, as COCO zero-shot
    protocols do."""
    nms_iou: Annotated[float, ROWS] = Field(0.7, gt=0, le=1)
    """The IoU above which non-maximum suppression drops the lower-scored of two boxes of a category. 1 turns it off."""
    image_size: ImageSize | None = None
    """The size that images are resized to. By default, the checkpoint's own."""
    resize: Annotated[Literal["pillow", "torch"], OF_LABELER] = "pillow"
    """The resize implementation. `torch` is faster; pixels differ by up to one level of 255."""
    jpeg_draft: Annotated[bool, OF_LABELER] = False
    """Decode large JPEGs at 1/2, 1/4 or 1/8 of their size if the detector needs no more. Faster, but not bit-equal."""
    jpeg_decoder: Literal["auto", "pillow"] = "auto"
    """The JPEG decoder. `auto` is simplejpeg if installed and equal to Pillow. Rows do not depend on it."""
    max_pixels: Annotated[int, ROWS] = Field(MAX_PIXELS, gt=0)
    """The most pixels of an image. Larger images become rows with status `too_large`."""
    tile: Annotated[int | None, OF_TILES] = Field(None, ge=64)
    """For small objects: also detect in square tiles with this side, in pixels of the stored image. By default, no
    tiles."""
    tile_overlap: Annotated[float, OF_TILES] = Field(0.2, ge=0, le=0.9)
    """The least overlap of neighboring tiles, as a part of `tile`."""
    tile_min_side: Annotated[int | None, OF_TILES] = None
    """Tile only images whose longer side exceeds this many pixels. By default, `tile`."""
    max_tiles: Annotated[int, OF_TILES] = Field(1000, gt=1, le=10_000)
    """The most tiles of an image. Images that need more become rows with status `too_large`."""
    pairs_per_batch: Annotated[int | None, OF_LABELER] = Field(None, gt=0)
    """The most (image, chunk) pairs of one forward pass, up to 32. By default, the device decides."""
    # Off until a GPU has shown it: what a recording does to a driver, a restarted worker would do again.
    cuda_graphs: Annotated[Literal["auto", True, False], OF_FAMILY] = False
    """Record the forward passes of frequent shapes as CUDA graphs. `auto` does so if a trial at startup finds it
    faster."""
    stall_timeout_s: float = Field(900.0, gt=0)
    """Replace a worker that decodes and detects nothing for this many seconds."""
    images_per_batch: int | None = Field(None, gt=0)
    """The number of images that are passed to the detector together. By default, the device decides."""

    def floor(self, of_family: float) -> float:
        """The score floor, of which the family's is the default."""
        return of_family if self.score_floor is None else self.score_floor

    @model_validator(mode="after")
    def _tiles_as_a_whole(self) -> Self:
        fields = type(self).model_fields
        changed = [name for name, value in marked(self, OF_TILES).items() if value != fields[name].default]
        if self.tile is None and changed:
            raise ValueError(f"{', '.join(changed)}: only for runs with tiles; set detect.tile, or leave it out")
        if self.tile and self.tile_min_side is not None and self.tile_min_side < self.tile:
            raise ValueError(
                f"tile_min_side {self.tile_min_side} is less than tile {self.tile}: one tile is not a gain"
            )
        return self

    @property
    def tiling(self) -> Tiling | None:
        """Return which images are tiled, and how; None where none are."""
        if self.tile is None:
            return None
        return Tiling(self.tile, self.tile_overlap, self.tile_min_side or self.tile, self.max_tiles)
