"""The Parquet tables of `labeler export --to parquet`, or others with these columns, as labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labeler import storage
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.imports.digesting import digest_of_files
from labeler.imports.labels import ImportedLabels, Labels
from labeler.labels.detections_column import SIDES
from labeler.parquet_bytes import open_parquet
from labeler.truth.columns import is_id, is_number, short

_IMAGES = ("image_id", "file_name")
_BOXES = ("image_id", "category_id", "category", *SIDES)
_ROWS = 4096


def read_tables(uri: str) -> Labels:
    """Images of images/*.parquet and boxes of boxes/*.parquet; `score`, `mask` and `digest` where they are there.

    Raises:
        Refused: there are no such tables, or a column is missing.
        StorageError: a file cannot be read.
    """
    shown, entries = storage.redact(uri), ImportedLabels()
    digests: list[tuple[str, str]] = []
    categories: dict[int, str] = {}
    for row in _rows(uri, "images", _IMAGES, ("digest", "width", "height"), digests):
        entries.add("images", {**row, "id": row["image_id"]})
    for row in _rows(uri, "boxes", _BOXES, ("score", "mask"), digests):
        left, top, right, bottom = (row[side] for side in SIDES)
        known = is_id(row["category_id"]) and isinstance(row["category"], str)
        named = categories.setdefault(row["category_id"], row["category"]) if known else None
        if not known:
            entries.problems.append(f"a box has category {short(row['category_id'])}, {short(row['category'])}; "
                                    "needs a whole number and a name")  # fmt: skip
        elif named != row["category"]:
            entries.problems.append(f"category {row['category_id']} is {named!a} and {row['category']!a}")
        box = [left, top, right - left, bottom - top] if all(map(is_number, (left, top, right, bottom))) else None
        mask = row.get("mask")
        if mask and not (isinstance(mask, Mapping) and {"size", "counts"} <= mask.keys()):
            entries.problems.append(f"a box has mask {short(mask)}; needs `size` and `counts`")
            mask = None
        about = {"bbox": box, "segmentation": {"size": mask["size"], "counts": mask["counts"]} if mask else None}
        entries.add("annotations", {**row, **about})
    for id_, name in sorted(categories.items()):
        entries.add("categories", {"id": id_, "name": name})
    return entries.labels(shown, digest_of_files(digests))


def _rows(
    uri: str, table: str, needed: Sequence[str], more: Sequence[str], digests: list[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    folder = storage.join(uri, table)
    files = sorted(info.uri for info in storage.list_objects(folder) if info.uri.endswith(".parquet"))
    if not files:
        raise Refused(f"{storage.redact(uri)} has no {table}/*.parquet; give the folder of a Parquet export")
    for file in files:
        data = storage.read_bytes(file)
        digests.append((file[len(uri) :], digest_of(data)))
        yield from _rows_of(data, storage.redact(file), needed, more)


def _rows_of(data: bytes, shown: str, needed: Sequence[str], more: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        file: pq.ParquetFile = open_parquet(data)
        names = file.schema_arrow.names
        if missing := [name for name in needed if name not in names]:
            raise Refused(f"{shown} has no column {missing[0]}; it needs {', '.join(needed)}")
        wanted = [name for name in (*needed, *more) if name in names]
        for batch in file.iter_batches(_ROWS, columns=wanted, use_threads=False):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{shown} is not a Parquet file: {str(error).splitlines()[0]}") from None
