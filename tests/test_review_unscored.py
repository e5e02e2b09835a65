"""Boxes imported without a score: the pages mark them, count them at every threshold, and keep them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.labels.thresholds import Thresholds
from labeler.review import write_report
from labeler.runs import read_snapshot, require_run
from tests.browser import chromium, eventually, slide
from tests.correction_parts import export, made_run
from tests.review_runs import data_of


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(imported run, its report, its comparison with the run that it was exported from); a box has no score."""
    folder = tmp_path_factory.mktemp("unscored")
    run = made_run(
        folder / "run",
        [Detections.of([[2, 2, 30, 30], [40, 10, 80, 50]], [0.9, 0.6], [1, 2])] * 2,
    )
    out = export(run, "coco", "--layout", "coco", "--images", "copy")
    file = out / "annotations" / "instances_default.json"
    values = json.loads(file.read_text())
    del values["annotations"][0]["score"]
    values["annotations"][1]["bbox"][0] += 9  # moved
    file.write_text(json.dumps(values))
    imported = folder / "imported"
    images = str(out / "images" / "default")
    assert main(["import", str(file), "--images", images, "--from", "coco", "--output", str(imported)]) == 0
    report, comparison = folder / "report.html", folder / "compare.html"
    snapshot = read_snapshot(require_run(str(imported)))
    write_report(snapshot, str(report), thresholds=Thresholds(0.3))
    assert main(["compare", str(imported), run.uri, "--output", str(comparison)]) == 0
    return imported, report, comparison


def test_the_page_knows_which_boxes_have_no_score_and_counts_them_at_1(pages: tuple[Path, Path, Path]) -> None:
    data = data_of(pages[1].read_text())
    assert data["unscored"] == 1
    assert [image.get("unscored") for image in data["images"]] in ([[0], None], [None, [0]])
    by_score = {one["name"]: one["scores"] for one in data["categories"] if one["scores"]}
    assert by_score == {"cat": {"100": 1, "90": 1}, "dog": {"60": 2}}


@pytest.mark.slow
def test_pages_say_unscored_and_no_slider_but_never_drops_it(pages: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, report, comparison = pages
    with chromium(tmp_path) as browser:
        browser.get(f"file://{report}")
        kept = lambda: browser.find_element("id", "kept").text  # noqa: E731
        assert kept().endswith("; a box without a score counts as 1")
        captions = [one.text for one in browser.find_elements("css selector", "#gallery .score")]
        assert captions == ["unscored", "0.90"]
        slide(browser, "#threshold", 1.0)
        eventually(lambda: kept().startswith("1 of 4"))
        captions = [one.text for one in browser.find_elements("css selector", "#gallery .score")]
        assert captions == ["unscored", "0.90 ↓"]
        slide(browser, "#threshold", 1.01)
        eventually(lambda: kept().startswith("0 of 4"))
        browser.get(f"file://{comparison}")
        browser.execute_script("document.querySelector('#tiles .tile .open').click()")
        lines: list[Any] = browser.find_elements("css selector", "dialog li")
        assert any("cat unscored → cat 0.90" in line.text for line in lines)
