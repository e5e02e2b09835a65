"""A run opened from a program: rows, tables, data frames and a torch Dataset, as they were committed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import labeler
from labeler.config import make_config
from labeler.runs import open_run, read_snapshot
from labeler.runs.erasure.erase import forget
from labeler.runs.erasure.excluded import Excluded, write_excluded
from tests.conftest import NAMES
from tests.inputs import write_tars
from tests.labeled_here import label_here


def picture(seed: int, *, turned: bool = False) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 64, 3), np.uint8)
    exif = Image.Exif()
    if turned:
        exif[274] = 6
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", exif=exif)
    return sink.getvalue()


def values_of(source: Path, output: Path, checkpoint: Path) -> dict[str, Any]:
    return {"input": str(source), "output": str(output), "vocabulary": NAMES, "model": {"name": str(checkpoint)}}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> str:
    folder = tmp_path_factory.mktemp("api")
    source = folder / "in"
    source.mkdir()
    for number in range(5):
        (source / f"{number}.png").write_bytes(picture(number, turned=number == 3))
    (source / "broken.png").write_bytes(b"not an image")
    values = values_of(source, folder / "run", checkpoint)
    detect = {"score_floor": 0.0, "max_detections": 7}
    return label_here(make_config({**values, "detect": detect, "unit": {"max_images": 2}})).uri


def test_rows_are_those_that_were_committed(uri: str) -> None:
    run = labeler.open_run(uri)
    assert run.is_complete
    assert [category.name for category in run.vocabulary.categories] == list(NAMES)
    rows = list(run.rows())
    assert [row.image_key for row in rows] == ["0.png", "1.png", "2.png", "3.png", "4.png", "broken.png"]
    committed = read_snapshot(run.run).tables()
    assert pa.concat_tables(committed).equals(run.to_arrow())
    assert [row.image_key for row in run.rows(status="decode_error")] == ["broken.png"]
    assert len(list(run.rows(status=["labeled", "empty"]))) == 5
    assert run.report().images == 6
    assert run.id in uri or run.id == run.run.manifest.run_id


def test_boxes_are_one_flat_table(uri: str) -> None:
    run = labeler.open_run(uri)
    flat = run.boxes(threshold=0.6)
    names = {category.id: category.name for category in run.vocabulary.categories}
    expected = [
        (row.image_key, names[int(id_)], score, tuple(box))
        for row in run.rows()
        for box, score, id_ in zip(
            row.detections.boxes.tolist(), row.detections.scores.tolist(), row.detections.category_ids, strict=True
        )
        if np.float32(score) >= np.float32(0.6)
    ]
    found = [
        (each["image_key"], each["category"], each["score"], tuple(each[side] for side in flat.column_names[-4:]))
        for each in flat.to_pylist()
    ]
    assert found == expected
    assert 0 < len(found) < len(run.boxes())
    assert labeler.open_run(uri).boxes(threshold=1.0).column_names == flat.column_names


def test_data_frames_have_the_rows(uri: str) -> None:
    run = labeler.open_run(uri)
    frame = run.to_pandas(["image_key", "width", "status"])
    assert list(frame.columns) == ["image_key", "width", "status"]
    assert frame["image_key"].tolist()[0] == "0.png"
    assert frame["width"].tolist()[:5] == [64, 64, 64, 40, 64]  # the fourth is turned
    polars = pytest.importorskip("polars")
    wide = run.to_polars()
    assert isinstance(wide, polars.DataFrame)
    assert wide.height == 6


def test_the_torch_dataset_has_the_pixels_that_were_labeled(uri: str) -> None:
    run = labeler.open_run(uri)
    images = run.to_torch(threshold=0.0)
    assert len(images) == 5
    rows = list(run.rows(status=("labeled", "empty")))
    for number, row in enumerate(rows):
        pixels, target = images[number]
        assert pixels.shape == (3, row.height, row.width)
        assert torch.equal(
            pixels, torch.from_numpy(labeler.decode(picture(number, turned=number == 3)).pixels.copy()).permute(2, 0, 1)
        )
        assert np.array_equal(target["boxes"].numpy(), row.detections.boxes)
        assert np.array_equal(target["scores"].numpy(), row.detections.scores)
        found = [images.categories[label] for label in target["labels"].tolist()]
        names = {category.id: category.name for category in run.vocabulary.categories}
        assert found == [names[int(id_)] for id_ in row.detections.category_ids]
    assert torch.equal(images[-1][1]["boxes"], images[4][1]["boxes"])
    with pytest.raises(IndexError):
        images[5]


def test_the_torch_dataset_works_in_a_loader_with_workers(uri: str) -> None:
    images = labeler.open_run(uri).to_torch(threshold=0.3)
    loader: Any = DataLoader(images, batch_size=2, num_workers=1, collate_fn=list)
    assert [len(batch) for batch in loader] == [2, 2, 1]


def test_an_image_that_is_another_by_now_is_named(tmp_path: Path, checkpoint: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.png").write_bytes(picture(1))
    values = values_of(source, tmp_path / "run", checkpoint)
    images = labeler.open_run(label_here(make_config(values)).uri).to_torch()
    (source / "a.png").write_bytes(picture(2))
    with pytest.raises(labeler.StorageError, match=r"a\.png .*no longer the one that was labeled"):
        images[0]


def test_a_forgotten_image_is_removed_at_once(tmp_path: Path, checkpoint: Path) -> None:
    shards = write_tars(tmp_path / "in", shards=1, images=3)
    values = values_of(shards, tmp_path / "run", checkpoint)
    run = labeler.open_run(label_here(make_config(values)).uri)
    first = next(run.rows()).image_key
    forget(run.run, [first])
    assert [row.status for row in run.refresh().rows()].count("removed") == 1
    assert run.to_arrow(["status"])["status"].to_pylist().count("removed") == 1
    assert len(run.to_torch()) == 2


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda uri: labeler.open_run(f"{uri}-2"), "run.json"),
        (lambda uri: labeler.open_run(uri).to_arrow(["scores"]), "no column 'scores'"),
        (lambda uri: labeler.open_run(uri).boxes(threshold=2), "from 0 to 1"),
        (lambda uri: labeler.open_run(uri).to_torch(threshold=-1), "from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(uri: str, use: Any, message: str) -> None:
    with pytest.raises(labeler.Refused, match=message):
        use(uri)


def test_the_run_is_as_it_was_listed_until_it_is_refreshed(tmp_path: Path, checkpoint: Path) -> None:
    shards = write_tars(tmp_path / "in", shards=1, images=2)
    values = values_of(shards, tmp_path / "run", checkpoint)
    label_here(make_config(values))
    found = open_run(str(tmp_path / "run"))
    assert found is not None
    run = labeler.LabeledRun(found)
    assert run.snapshot is run.snapshot
    before = run.snapshot
    assert run.refresh().snapshot is not before


def test_an_image_that_is_listed_to_be_forgotten_shows_only_its_place(tmp_path: Path, checkpoint: Path) -> None:
    shards = write_tars(tmp_path / "in", shards=1, images=3)
    values = {**values_of(shards, tmp_path / "run", checkpoint), "detect": {"score_floor": 0.0}}
    run = labeler.open_run(label_here(make_config(values)).uri)
    key = next(run.rows()).image_key
    before = run.boxes()["image_key"].to_pylist()
    assert key in before
    write_excluded(run.run, Excluded.of([f"00000.tar/{key}"]))  # labeled meanwhile, and not erased yet
    (row,) = run.rows(status="removed")
    assert (row.image_key, row.digest, row.width, len(row.detections)) == (key, None, None, 0)
    assert run.boxes()["image_key"].to_pylist() == [other for other in before if other != key]
    assert run.to_arrow(["image_key", "digest"])["digest"].null_count == 1
    assert len(run.to_torch()) == 2


def test_a_column_twice_is_refused_and_no_column_is_none(uri: str) -> None:
    with pytest.raises(labeler.Refused, match="twice"):
        labeler.open_run(uri).to_arrow(["status", "status"])
    assert labeler.open_run(uri).to_arrow([]).column_names == []
