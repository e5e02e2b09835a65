"""Where images come from and where the run goes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from labeler.config.section import S3Config, Section


class InputConfig(Section):
    """The images to label. `input: URI` is short for `input: {uri: URI}`."""

    uri: str | tuple[str, ...]
    """A folder, a glob, a brace pattern, one file, or a list of those. Local paths and every fsspec URI work."""
    inventory: str | tuple[str, ...] | None = None
    """Tables of the objects below `uri`, read instead of listing it: the manifest.json of an S3 Inventory, or CSV or
    Parquet files with the columns bucket and key."""
    format: Literal["webdataset", "images", "parquet"] | None = None
    """The input format. By default, file names decide."""
    keep: tuple[str, ...] = ()
    """WebDataset sidecar extensions or Parquet columns to copy into the rows, as strings."""
    limit: int | None = Field(None, gt=0)
    """Label only this many images, the first of the plan. By default, all."""
    exclude: tuple[str, ...] = ()
    """Images to skip: run folders, whose forgotten images are skipped, or files that list image names."""
    image_column: str | None = None
    """Parquet: the column with the image or its URI. By default, labeler finds it."""
    skip_without_images: bool = False
    """Parquet: skip files without an image column instead of rejecting the input."""
    images_per_shard: int = Field(2048, gt=0)
    """Folders of image files: the number of images that form one shard."""
    s3: S3Config = S3Config()
    """Access to the input's buckets, and to those of URIs in a column."""


class OutputConfig(Section):
    """The run folder. `output: URI` is short for `output: {uri: URI}`."""

    uri: str
    """The run folder: new, empty, or of the run to resume."""
    single_writer: bool = False
    """Promise that no second job writes to this run. Needed on storage without conditional writes."""
