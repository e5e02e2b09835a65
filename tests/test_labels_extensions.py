"""The optional columns of rows: in files that have them, in files that have not, and in runs that mix both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from labeler.cli import main
from labeler.labels import extensions
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.extensions import NAMES, OF_DETECTIONS, OF_IMAGES
from labeler.labels.masks import Mask
from labeler.labels.records import (
    BOXES,
    LABELS,
    Row,
    complete_table,
    parquet_to_table,
    rows_to_table,
    schema,
    table_to_parquet,
    table_to_rows,
)
from labeler.runs import layout, open_run, read_snapshot
from labeler.runs import manifest as manifests
from labeler.runs.erasure.erase import forget
from tests.label_runs import row, write_run

MORE = {
    "score2": np.array([0.5, np.nan], np.float32),
    "unscored": np.array([1, 0], np.int8),
    "agreement": np.array([0, 3], np.int16),
    "source": np.array(["moved", None], np.object_),
    "model_score": np.array([0.25, np.nan], np.float32),
}


def two(score: float = 0.5) -> Detections:
    return Detections.of([[0, 1, 20, 30], [40, 50, 60, 70]], [score, 0.25], [3, 8], [0, 1])


def checked(index: int, **values: object) -> Row:
    return row(index, replace(two(), more=MORE), asked=(3, 8), review="complete", **values)


def test_every_optional_column_is_declared_once_and_clashes_with_no_other() -> None:
    assert len(set(NAMES)) == len(OF_IMAGES) + len(OF_DETECTIONS)
    assert not {*LABELS.names, *(field.name for field in LABELS.field("detections").type.value_type)} & set(NAMES)


def test_a_run_without_optional_columns_is_of_the_version_before_them() -> None:
    assert extensions.schema_fields(()) == {"schema_version": 2}
    assert extensions.schema_fields(("review", "asked")) == {"schema_version": 3, "columns": ["asked", "review"]}
    assert schema().equals(LABELS)
    assert rows_to_table([checked(0)]).schema.equals(LABELS), "what a run has not is not written"
    with pytest.raises(ValueError, match="'odd' is none of asked, review"):
        extensions.schema_fields(("odd",))


@pytest.mark.parametrize("columns", [NAMES, ("asked",), ("source", "score2"), ("model_score", "review")])
def test_optional_columns_come_back_as_they_went_in_beside_masks_or_without(columns: tuple[str, ...]) -> None:
    masked = replace(two(), more=MORE).with_masks([None, Mask(2, 2, b"04")])
    rows = [checked(0), row(1), row(2, masked, asked=())]
    table = parquet_to_table(table_to_parquet(rows_to_table(rows, columns=columns), {}))
    assert table.schema.equals(schema((), columns))
    back = table_to_rows(table)
    assert [list(found.asked) if found.asked is not None else None for found in back] == (
        [[3, 8], None, []] if "asked" in columns else [None] * 3
    )
    assert [found.review for found in back] == (["complete", None, None] if "review" in columns else [None] * 3)
    assert back[2].detections.count_masks() == 1
    for found in (back[0].detections, back[2].detections, *DetectionsColumn(table.slice(2)).per_row(masks=False)):
        assert set(found.more) == set(columns) & set(OF_DETECTIONS)
        for name, values in found.more.items():
            np.testing.assert_array_equal(values, MORE[name])
    values = table["detections"].to_pylist()[0]
    if "source" in columns:
        assert [(one["source"], one["score2"]) for one in values] == [("moved", 0.5), (None, None)]
    bare = parquet_to_table(table_to_parquet(rows_to_table(rows, columns=columns), {}), ("status", BOXES))
    assert set(DetectionsColumn(bare).detections.more) == set(columns) & set(OF_DETECTIONS)


def test_a_column_that_is_not_as_declared_is_damage() -> None:
    table = rows_to_table([checked(0)], columns=NAMES)
    kind = table.schema.field("detections").type.value_type
    fields = [pa.field("score2", pa.float64()) if field.name == "score2" else field for field in kind]
    other = pa.list_(pa.field("element", pa.struct(fields), nullable=False))
    at = table.schema.get_field_index("detections")
    damaged = table.set_column(at, pa.field("detections", other, nullable=False), table["detections"].cast(other))
    with pytest.raises(pa.ArrowInvalid, match="no column detections of type"):
        parquet_to_table(table_to_parquet(damaged, {}))


def test_detections_with_and_without_optional_columns_are_put_together() -> None:
    together = Detections.concat([two(0.9), replace(two(), more={"agreement": MORE["agreement"]})])
    assert together.more["agreement"].tolist() == [0, 0, 0, 3]
    assert together.sorted()[:3].more["agreement"].tolist() == [0, 0, 0]
    assert Detections.concat([two(), two()]).more == {}
    with pytest.raises(ValueError, match="need source for each of 2"):
        replace(two(), more={"source": np.array(["moved"], np.object_)})


def test_rows_that_are_taken_over_keep_their_optional_columns_and_lacking_ones_are_null() -> None:
    plain, wide = rows_to_table([row(0, two())]), rows_to_table([checked(1)], columns=("review", "source"))
    table = complete_table([row(2, two())], (), plain, ("review",))
    assert table["review"].to_pylist() == [None, None]
    table = complete_table([row(2, two())], (), wide)
    assert table["review"].to_pylist() == ["complete", None]
    assert [one["source"] for found in table["detections"].to_pylist() for one in found] == ["moved", None, None, None]


def test_a_column_that_the_user_keeps_may_have_the_name_of_an_optional_one_that_the_run_has_not() -> None:
    mine = replace(row(0, two()), kept={"review": "five stars"})
    table = complete_table([mine], ("review",), rows_to_table([replace(mine, index=1)], ("review",)))
    assert table.schema.equals(schema(("review",)))
    assert [found.kept for found in table_to_rows(table, ("review",))] == [{"review": "five stars"}] * 2
    with pytest.raises(ValueError, match="'review' is the name of a labels column"):
        schema(("review",), ("review",))


def mixed_run(folder: Path) -> None:
    """The first unit has the columns of the run; the second is like one copied unchanged from a plain run."""
    write_run(folder, {(0, 0): [checked(0), row(1, two())], (0, 1): [row(2, two(0.9))]}, columns=("review", "source"))
    taken = rows_to_table([row(2, two(0.9))])
    (folder / layout.unit_file("000000", 1)).write_bytes(table_to_parquet(taken, {}))


def test_where_reads_optional_columns_of_units_that_have_them_and_of_units_that_have_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed_run(tmp_path / "run")
    for where, keys in (
        ("review = 'complete'", ["0.jpg"]),
        ("review is null", ["1.jpg", "2.jpg"]),
        ("len([d for d in detections if d.source is null]) = 2", ["1.jpg", "2.jpg"]),
    ):
        target = tmp_path / "out.json"
        target.unlink(missing_ok=True)
        command = ["export", str(tmp_path / "run"), "--to", "coco", "--output", str(target)]
        assert main([*command, "--where", where]) == 0, capsys.readouterr().err
        assert [image["file_name"].split("/")[-1] for image in json.loads(target.read_text())["images"]] == keys
    write_run(tmp_path / "plain", {(0, 0): [row(0, two())]})
    assert main(["export", str(tmp_path / "plain"), "--to", "coco", "--where", "review is null"]) == 2
    assert "cannot be evaluated" in capsys.readouterr().err


def test_what_does_not_ask_for_optional_columns_reads_a_run_as_if_it_had_none(tmp_path: Path) -> None:
    mixed_run(tmp_path / "run")
    write_run(tmp_path / "plain", {(0, 0): [row(0, two()), row(1, two())], (0, 1): [row(2, two(0.9))]})
    made = {}
    for name in ("run", "plain"):
        assert main(["export", str(tmp_path / name), "--to", "coco", "--output", str(tmp_path / f"{name}.json")]) == 0
        found = json.loads((tmp_path / f"{name}.json").read_text())
        made[name] = (found["images"], found["annotations"])
        assert main(["status", str(tmp_path / name), "--verify"]) == 0
        assert main(["report", str(tmp_path / name)]) == 0
    assert made["run"] == made["plain"]


def test_forgetting_an_image_leaves_the_others_their_optional_columns(tmp_path: Path) -> None:
    mixed_run(tmp_path / "run")
    run = open_run(str(tmp_path / "run"))
    assert run is not None
    forget(run, ["1.jpg"])
    rows = [found for table in read_snapshot(run).tables() for found in table_to_rows(table)]
    assert [(found.status, found.review) for found in rows] == [
        ("labeled", "complete"), ("removed", None), ("labeled", None)
    ]  # fmt: skip
    assert rows[0].detections.more["source"].tolist() == ["moved", None]


def test_a_labeler_from_before_the_optional_columns_refuses_their_runs_in_one_line_and_reads_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed_run(tmp_path / "run")
    write_run(tmp_path / "plain", {(0, 0): [row(0, two())]})
    written = {name: json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "plain")}
    assert {name: values["schema_version"] for name, values in written.items()} == {"run": 3, "plain": 2}
    assert "columns" not in written["plain"]["fingerprint_fields"]
    monkeypatch.setattr(manifests, "READABLE_VERSIONS", frozenset({1, 2}))  # as that labeler had it
    assert main(["status", str(tmp_path / "plain")]) == 0
    capsys.readouterr()
    assert main(["status", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "schema version 3, not 1, 2" in said
