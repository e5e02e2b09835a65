from __future__ import annotations

import numpy as np
import pyarrow as pa
import pycocotools.mask
import pytest

from labeler.labels import detections_column
from labeler.labels.detections import Detections
from labeler.labels.detections_column import MASK, DetectionsColumn
from labeler.labels.masks import Mask
from labeler.labels.records import BOXES, LABELS, Row, parquet_to_table, rows_to_table, table_to_parquet


def blob(seed: int, height: int, width: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < share


def mask_at(seed: int, height: int, width: int, quality: float | None = None) -> Mask:
    return Mask.of_window(blob(seed, height, width).T, 0, 0, height=height, width=width, quality=quality)


def two() -> Detections:
    return Detections.of([[0, 1, 2, 3], [4, 5, 6, 7]], [0.25, 0.5], [7, 9], [0, 3])


def test_a_mask_without_a_pixel_is_all_background() -> None:
    mask = Mask.of_window(np.zeros((3, 2), np.bool_), 1, 1, height=9, width=7)
    assert mask.area == 0
    assert mask.decode().tolist() == np.zeros((9, 7)).tolist()
    assert mask.rle == pycocotools.mask.encode(np.zeros((9, 7), np.uint8, order="F"))


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [
        (11, 7, (2, 3, 5, 9)),
        (11, 7, (0, 0, 7, 11)),  # all of the image: runs continue from column to column
        (11, 7, (0, 0, 1, 1)),
        (11, 7, (6, 10, 7, 11)),
        (11, 7, (3, 0, 6, 11)),
        (1, 9, (2, 0, 8, 1)),
        (9, 1, (0, 2, 1, 9)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95, 1.0])
def test_a_window_is_encoded_as_pycocotools_encodes_the_whole_image(
    height: int, width: int, window: tuple[int, int, int, int], share: float
) -> None:
    left, top, right, bottom = window
    whole = np.zeros((height, width), np.uint8)
    whole[top:bottom, left:right] = blob(height + width, bottom - top, right - left, share)
    inside = whole[top:bottom, left:right].T.astype(np.bool_)
    mask = Mask.of_window(inside, left, top, height=height, width=width)
    assert mask.rle == pycocotools.mask.encode(np.asfortranarray(whole))
    assert mask.decode().tolist() == whole.tolist()
    assert mask.area == whole.sum()


def test_detections_without_masks_stay_without() -> None:
    assert Detections.empty().masks is None
    assert Detections.concat([two(), two()]).masks is None
    assert (two().sorted().masks, two().mask_of(0), two().count_masks()) == (None, None, 0)


def test_masks_stay_with_their_detections() -> None:
    low, high = mask_at(0, 8, 9), mask_at(1, 8, 9)
    found = two().with_masks([low, high])
    assert found.sorted().masks.tolist() == [high, low]  # type: ignore[union-attr]
    assert found.top(1).masks.tolist() == [high]  # type: ignore[union-attr]
    assert found.above(0.3).masks.tolist() == [high]  # type: ignore[union-attr]
    assert found[np.array([True, False])].mask_of(0) is low
    assert found[:1].count_masks() == 1
    together = Detections.concat([two(), found, Detections.empty()])
    assert together.masks.tolist() == [None, None, low, high]  # type: ignore[union-attr]
    assert together.count_masks() == 2


def test_there_is_a_mask_or_none_for_each_detection() -> None:
    with pytest.raises(ValueError, match="a mask or None for each of 2"):
        two().with_masks([None])


def test_masks_come_back_from_parquet_as_they_went_in() -> None:
    some = two().with_masks([mask_at(0, 30, 40, 0.75), None])
    rows = [
        Row("a", "000000", 0, "u", "labeled", detections=two()),
        Row("b", "000000", 1, "u", "empty"),
        Row("c", "000000", 2, "u", "labeled", detections=some),
    ]
    table = parquet_to_table(table_to_parquet(rows_to_table(rows), {}))
    assert table.schema.equals(LABELS)
    without, _, back = DetectionsColumn(table).per_row(masks=True)
    assert back.masks is not None
    assert back.masks.tolist() == some.masks.tolist()  # type: ignore[union-attr]
    assert back.mask_of(0).quality == 0.75  # type: ignore[union-attr]
    assert without.count_masks() == 0
    assert DetectionsColumn(table.slice(2, 1)).per_row(masks=True)[0].mask_of(0) == some.mask_of(0)


def test_readers_of_boxes_get_them_without_the_masks() -> None:
    some = two().with_masks([mask_at(0, 30, 40, 0.75), None])
    table = rows_to_table([Row(key, "000000", 0, "u", "labeled", detections=some) for key in "ab"])
    column = DetectionsColumn(table)
    for with_masks, without in zip(column.per_row(masks=True), column.per_row(masks=False), strict=True):
        assert without.masks is None
        assert with_masks.count_masks() == 1
        for column in ("boxes", "scores", "category_ids", "chunks"):
            assert np.array_equal(getattr(without, column), getattr(with_masks, column))


def test_of_a_part_of_a_table_only_its_own_masks_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    some = two().with_masks([mask_at(0, 30, 40, 0.75), mask_at(1, 30, 40, 0.5)])
    table = rows_to_table([Row(str(n), "000000", n, "u", "labeled", detections=some) for n in range(5)])
    made: list[object] = []
    monkeypatch.setattr(detections_column, "_mask_of", made.append)
    assert [len(found) for found in DetectionsColumn(table.slice(3, 1)).per_row(masks=True)] == [2]
    assert len(made) == 2


def test_a_run_without_masks_reads_back_without() -> None:
    table = rows_to_table([Row("a", "000000", 0, "u", "labeled", detections=two())])
    assert DetectionsColumn(table).per_row(masks=True)[0].masks is None


def test_masks_of_the_first_schema_version_have_no_quality() -> None:
    mask = mask_at(3, 5, 6)
    table = rows_to_table([Row("a", "000000", 0, "u", "labeled", detections=two().with_masks([mask, mask]))])
    column = table["detections"].combine_chunks()
    old = pa.struct([field for field in MASK if field.name != "quality"])
    values = [
        column.values.field(f.name) if f.name != "mask" else pa.array([mask.rle] * 2, old)
        for f in column.type.value_type
    ]
    names = [field.name for field in column.type.value_type]
    rebuilt = pa.ListArray.from_arrays(column.offsets, pa.StructArray.from_arrays(values, names))
    table = table.set_column(table.schema.names.index("detections"), "detections", rebuilt)
    assert DetectionsColumn(table).per_row(masks=True)[0].mask_of(1) == mask


def test_a_reader_of_boxes_reads_no_bytes_of_masks_and_checks_none() -> None:
    some = two().with_masks([mask_at(0, 30, 40, 0.75), None])
    rows = [Row(str(n), "000000", n, "u", "labeled", detections=some) for n in range(3)]
    data = table_to_parquet(rows_to_table(rows), {"run_id": "r"})
    table = parquet_to_table(data, ("index", BOXES))
    assert table.schema.names == ["index", "detections"]
    assert [field.name for field in table.schema.field("detections").type.value_type][-1] == "chunk"
    whole = DetectionsColumn(parquet_to_table(data))
    column = DetectionsColumn(table)
    assert np.array_equal(column.detections.boxes, whole.detections.boxes)
    assert np.array_equal(column.detections.chunks, whole.detections.chunks)
    assert column.lengths.tolist() == [2, 2, 2]
    with pytest.raises(pa.ArrowInvalid, match="no column status"):
        parquet_to_table(table_to_parquet(rows_to_table(rows).drop_columns(["status"]), {}), ("status", BOXES))
