"""Run lengths of compressed masks: what pycocotools writes fills its image, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pycocotools.mask
import pytest

from labeler.errors import StorageError
from labeler.labels.detections import Detections
from labeler.labels.mask_runs import each_fills
from labeler.labels.masks import Mask
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.runs import read_unit_file


def _written(seed: int) -> tuple[list[int], bytes, int, int]:
    """Run lengths, as pycocotools compresses them, of a random mask of some height and width."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 60, 2))
    pixels = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
    flat = pixels.flatten("F")
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    runs = ([0] if flat[0] else []) + np.diff(edges).tolist()
    counts: bytes = pycocotools.mask.encode(np.asfortranarray(pixels, np.uint8))["counts"]
    return runs, counts, height, width


def _compress(runs: list[int], height: int, width: int) -> bytes:
    counts: bytes = pycocotools.mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    return counts


def fills(counts: bytes, height: int, width: int) -> bool:
    offsets = np.array([0, len(counts)], np.int64)
    return bool(each_fills(np.frombuffer(counts, np.uint8), offsets, np.array([height * width], np.int64))[0])


def test_nothing_is_no_mask() -> None:
    assert not fills(b"", 3, 4)
    assert not fills(b"0", 0, 0)
    assert each_fills(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize("seed", range(60))
def test_masks_fill_their_own_image_and_no_other(seed: int) -> None:
    runs, counts, height, width = _written(seed)
    assert fills(counts, height, width)
    assert not fills(counts, height, width + 1)
    assert not fills(_compress([*runs, 3], height, width), height, width)
    assert not fills(_compress([*runs[:-1], runs[-1] + 1], height, width), height, width)
    assert not fills(counts[:-1], height, width)
    assert not fills(counts + b" ", height, width)
    assert not fills(counts + b"\x7f", height, width)
    assert not fills(counts + b"o" * 9 + b"0", height, width)


def test_many_masks_are_judged_each_by_itself() -> None:
    masks = []
    for seed in range(200):
        runs, counts, height, width = _written(seed)
        broken = [counts, b"", counts[:-1] + b"P", counts + b"\x01", _compress(runs[:-1] or [1], height, width)]
        masks += [(one, height, width) for one in broken]
    offsets = np.cumsum([0, *(len(counts) for counts, _, _ in masks)])
    found = each_fills(
        np.frombuffer(b"".join(counts for counts, _, _ in masks), np.uint8),
        offsets,
        np.array([height * width for _, height, width in masks]),
    )
    assert found.tolist() == [fills(*mask) for mask in masks]
    assert found[::5].all()


def test_a_unit_file_with_a_mask_that_does_not_fill_its_image_is_damaged(tmp_path: Path) -> None:
    found = Detections.of([[0, 1, 2, 3], [4, 5, 6, 7]], [0.25, 0.5], [7, 9], [0, 3])
    place = {"uri": "x", "width": 9, "height": 8}
    for name, last in (("whole", 52), ("short", 51)):
        masks = [None, Mask(8, 9, _compress([10, 10, last], 8, 9))]
        rows = [Row("a", "000000", 0, status="labeled", detections=found.with_masks(masks), **place)]  # type: ignore[arg-type]
        (tmp_path / name).write_bytes(table_to_parquet(rows_to_table(rows), {}))
    assert isinstance(read_unit_file(str(tmp_path / "whole")), pa.Table)
    assert read_unit_file(str(tmp_path / "short"), ("status",)).num_rows == 1
    with pytest.raises(StorageError, match=r"short is damaged .*mask"):
        read_unit_file(str(tmp_path / "short"), ("detections",))
