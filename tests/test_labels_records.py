from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn, has_masks
from labeler.labels.masks import Mask
from labeler.labels.records import (
    BOXES,
    LABELS,
    STATUSES,
    Row,
    parquet_to_table,
    rows_to_table,
    schema,
    table_to_parquet,
)


def row(index: int, detections: Detections | None = None, **kept: str | None) -> Row:
    found = detections if detections is not None else Detections.empty()
    return Row(f"{index}.jpg", "000000", index, "u", "labeled" if len(found) else "empty", detections=found, kept=kept)


def test_no_rows_make_an_empty_table_of_the_whole_schema() -> None:
    table = rows_to_table([])
    assert table.num_rows == 0
    assert table.schema.equals(LABELS)
    assert DetectionsColumn(parquet_to_table(table_to_parquet(table, {}))).per_row(masks=True) == []


def test_a_unit_without_any_detection_keeps_the_schema() -> None:
    back = parquet_to_table(table_to_parquet(rows_to_table([row(0), row(1)]), {}))
    assert back.schema.equals(LABELS)
    assert [len(d) for d in DetectionsColumn(back).per_row(masks=True)] == [0, 0]
    assert back["detections"].null_count == 0


def test_detections_come_back_as_they_went_in_also_from_a_slice() -> None:
    some = Detections.of([[0, 1, 2, 3], [4, 5, 6, 7]], [0.5, 0.25], [7, 9], [0, 3])
    table = parquet_to_table(table_to_parquet(rows_to_table([row(0), row(1, some), row(2), row(3, some[:1])]), {}))
    for whole, expected in zip(DetectionsColumn(table).per_row(masks=True), [0, 2, 0, 1], strict=True):
        assert len(whole) == expected
    again = DetectionsColumn(table.slice(1, 2)).per_row(masks=True)[0]
    assert again.boxes.tolist() == some.boxes.tolist()
    assert (again.scores.tolist(), again.category_ids.tolist(), again.chunks.tolist()) == ([0.5, 0.25], [7, 9], [0, 3])


def test_kept_columns_stand_after_the_labels_and_missing_ones_are_null() -> None:
    table = rows_to_table([row(0, txt="a caption"), row(1)], keep=("txt",))
    assert table.schema.equals(schema(("txt",)))
    assert table["txt"].to_pylist() == ["a caption", None]


def test_a_kept_column_must_not_shadow_a_labels_column() -> None:
    with pytest.raises(ValueError, match="status"):
        schema(("status",))


def test_metadata_travels_in_the_file() -> None:
    data = table_to_parquet(rows_to_table([row(0)]), {"run_id": "abc"})
    assert parquet_to_table(data).schema.metadata[b"run_id"] == b"abc"


def test_only_known_statuses_are_rows() -> None:
    assert len(STATUSES) == len(set(STATUSES))
    with pytest.raises(ValueError, match="odd"):
        Row("k", "000000", 0, "u", "odd")


def test_plain_readers_open_the_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import duckdb
    from datasets import load_dataset

    some = Detections.of([[0, 1, 2, 3]], [0.5], [7])
    folder = tmp_path / "labels" / "000000"
    folder.mkdir(parents=True)
    (folder / "000000.parquet").write_bytes(table_to_parquet(rows_to_table([row(0), row(1, some)]), {}))
    query = f"select count(*), sum(len(detections)) from '{tmp_path}/labels/*/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(2, 1)]
    loaded = load_dataset(
        "parquet", data_files=f"{tmp_path}/labels/*/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded[1]["detections"][0]["category_id"] == 7
    assert pq.read_table(folder).num_rows == 2


def test_kept_columns_with_dots_in_their_names_are_read_beside_boxes_without_masks() -> None:
    kept = ("json.group", "json.mask.kind")
    some = Detections.of([[0, 1, 2, 3]], [0.5], [7]).with_masks([Mask(4, 4, b"04", 0.5)])
    data = table_to_parquet(rows_to_table([row(0, some, **dict.fromkeys(kept, "a"))], keep=kept), {})
    table = parquet_to_table(data, ["digest", BOXES, *kept])
    assert [table[name].to_pylist() for name in kept] == [["a"], ["a"]]
    assert not has_masks(table["detections"].type)
