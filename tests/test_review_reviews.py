"""What reviewers did with each category's boxes, in the report of a corrected run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labeler.labels.thresholds import Thresholds
from labeler.review import write_report
from labeler.runs import Run, read_snapshot
from tests.browser import chromium
from tests.correction_parts import correct, export, made_run, reviewed_tasks
from tests.review_runs import data_of


def edit(number: int, annotation: dict[str, Any]) -> None:
    if number == 0:
        annotation["result"][0]["value"]["x"] += 5
        annotation["result"][1]["value"]["rectanglelabels"] = ["cat"]
        del annotation["result"][2]


@pytest.fixture
def corrected(tmp_path: Path) -> Run:
    run = made_run(tmp_path)
    return correct(
        run, str(reviewed_tasks(export(run, "label-studio"), edit, only=[0, 1, 2])), "--from", "label-studio"
    )


def report(run: Run) -> Path:
    target = Path(run.uri) / "page.html"
    write_report(read_snapshot(run), str(target), thresholds=Thresholds(0.3))
    return target


def test_the_report_counts_sources_by_category_and_what_was_removed(corrected: Run) -> None:
    assert data_of(report(corrected).read_text())["reviews"] == {
        "sources": ["accepted", "moved", "renamed", "moved+renamed", "added", "removed"],
        "images": {"complete": 3},
        "categories": [[1, 1, 1, 1, 0, 0, 0], [2, 1, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 1]],
    }


def test_a_run_that_nobody_reviewed_has_no_such_section(corrected: Run) -> None:
    assert corrected.parent is not None
    assert data_of(report(corrected.parent).read_text())["reviews"] is None


@pytest.mark.slow
def test_the_page_shows_the_table_of_a_corrected_run_alone(corrected: Run, tmp_path: Path) -> None:
    assert corrected.parent is not None
    with chromium(tmp_path / "downloads") as browser:
        browser.get(report(corrected).as_uri())
        rows = browser.find_elements("css selector", "#reviews-table tbody tr")
        assert rows[0].text.split() == ["cat", "1", "1", "1", "0", "0", "0"]
        assert "3 images reviewed completely" in browser.find_element("id", "reviews-about").text
        browser.get(report(corrected.parent).as_uri())
        assert not browser.find_element("id", "reviews").is_displayed()
        assert not browser.find_element("id", "reviews-link").is_displayed()
