"""Names per image in tiled images: against tiled runs whose vocabulary is exactly those names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeler.config import Config
from labeler.labeling.recipe import DetectorRecipe, labeler_recipe
from labeler.labeling.resolve import resolve_job
from labeler.labeling.unit import UnitLabeler
from labeler.labels.records import Row
from tests.tiled_parts import LARGE, NAMES, OVERLAP, SMALL, TILE, WIDE, config_for, drawn, item, labeler_of

CATEGORIES = NAMES["grounding-dino"]
VIEWS = {LARGE: 10, WIDE: 4, SMALL: 1}


@pytest.fixture
def config(mm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    return config_for("grounding-dino", mm_folder, tmp_path, monkeypatch, tile=TILE, tile_overlap=OVERLAP)


def of_names(config: Config, *, images_per_batch: int | None = None) -> UnitLabeler:
    recipe = labeler_recipe(resolve_job(config), threads=1)
    assert isinstance(recipe.make_detector, DetectorRecipe)
    narrow = replace(recipe.make_detector, names_per_image=True)
    return replace(recipe, make_detector=narrow, images_per_batch=images_per_batch)()


def only(config: Config, ids: tuple[int, ...]) -> Config:
    """The same with these names alone."""
    return config.model_copy(update={"vocabulary": [{"id": id_, "name": CATEGORIES[id_ - 1]} for id_ in ids]})


def assert_equal(row: Row, expected: Row) -> None:
    found, wanted = row.detections, expected.detections
    assert row.status == expected.status == "labeled"
    for name in ("boxes", "scores", "category_ids", "chunks"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize("images_per_batch", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_a_tiled_image_has_the_rows_of_a_tiled_run_of_its_names(config: Config, images_per_batch: int | None) -> None:
    sets = ((1, 3), (2, 4), (1, 3), None)
    sizes = (LARGE, LARGE, SMALL, WIDE)
    items = [item(n, pixels) for n, pixels in enumerate(drawn(*sizes))]
    named = [replace(each, asked=ids) for each, ids in zip(items, sets, strict=True)]
    rows, work = of_names(config, images_per_batch=images_per_batch).label("000000", named)
    assert [row.asked for row in rows] == list(sets)
    for each, ids, row in zip(items, sets, rows, strict=True):
        plain = labeler_of(config if ids is None else only(config, ids))
        assert_equal(row, plain.label("000000", [each])[0][0])
    assert work.passes == sum(VIEWS[size] * (2 if ids is None else 1) for size, ids in zip(sizes, sets, strict=True))


@pytest.mark.parametrize("size", [LARGE, SMALL])
def test_an_image_that_is_asked_for_nothing_is_empty_and_no_view_of_it_is_looked_at(
    config: Config, size: tuple[int, int]
) -> None:
    nothing, something = (item(n, pixels) for n, pixels in enumerate(drawn(size, size)))
    items = [replace(nothing, asked=()), replace(something, asked=(2,))]
    rows, work = of_names(config).label("000000", items)
    assert [(row.status, row.asked) for row in rows] == [("empty", ()), ("labeled", (2,))]
    assert (rows[0].height, rows[0].width, len(rows[0].detections)) == (*size, 0)
    assert rows[0].phash is not None
    assert work.passes == VIEWS[size]
