"""One row's encoded image, read by range: never a whole shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from labeler import images, storage
from labeler.errors import LabelerError
from labeler.runs import PlannedShard, Run
from labeler.shards.image_column import find_image_column
from labeler.shards.parquet import open_parquet


class ImageReader:
    """Reads images of a run's rows. Thread-safe.

    Tars and image files give exactly the image's bytes; of a Parquet file only the image column of the row group is
    read (its rows are not addressable one by one), and the last group is kept for its next image.
    """

    def __init__(self, run: Run, plan: Sequence[PlannedShard]) -> None:
        self._shards = {planned.shard_id: planned.shard for planned in plan}
        self._column: str | None = run.manifest.config["input"].get("image_column")
        self._row_group = lru_cache(maxsize=1)(self._read_row_group)

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The bytes of a labels row (`uri`, `offset`, `length`, `digest`, `shard_id`, `index` are used).

        Raises:
            LabelerError: they cannot be read, or are no longer those that were labeled; one line.
        """
        shard = self._shards[row["shard_id"]]
        if row["offset"] is not None:
            data = storage.read_bytes(row["uri"], start=row["offset"], length=row["length"])
        elif shard.format == "parquet" and row["uri"] == shard.uri:
            data = self._embedded(row["shard_id"], row["index"])
        else:
            data = storage.read_bytes(row["uri"])
        if row["digest"] is not None and images.digest(data) != row["digest"]:
            raise LabelerError("the image is no longer the one that was labeled")
        return data

    def _embedded(self, shard_id: str, index: int) -> bytes:
        try:
            file = open_parquet(self._shards[shard_id])
            first = 0
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if index < first + rows:
                    value = self._row_group(shard_id, group)[index - first].as_py()
                    data = value.get("bytes") if isinstance(value, dict) else value
                    if data is None:
                        raise LabelerError("the row has no image")
                    return bytes(data)
                first += rows
        except (pa.ArrowException, OSError) as error:
            raise LabelerError(f"Parquet cannot be read: {type(error).__name__}") from error
        raise LabelerError("the Parquet file has fewer rows than when it was labeled")

    def _read_row_group(self, shard_id: str, group: int) -> pa.ChunkedArray:
        shard = self._shards[shard_id]
        file = open_parquet(shard)
        name = find_image_column(file.schema_arrow, self._column, shard.uri).name
        return file.read_row_group(group, columns=[name], use_threads=False)[name]
