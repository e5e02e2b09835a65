"""The report in a real Chromium: sliders, counts, marks, keys, downloads and window sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from labeler.labels.thresholds import NEVER, Thresholds
from labeler.review import write_report
from labeler.runs import Run, read_snapshot
from labeler.runs.fitted_on import fitted_on, thresholds_for
from tests.browser import chromium, eventually, set_window, slide
from tests.evaluation_runs import add_masks
from tests.label_runs import export_coco
from tests.review_runs import HOSTILE, write_input, write_run
from tests.test_review_report import truth_of


@dataclass(frozen=True)
class Opened:
    run: Run
    browser: Any
    downloads: Path

    def kept(self) -> int:
        """Boxes kept, as the page says."""
        said = re.match(r"([\d,]+) of", self.browser.find_element("id", "kept").text)
        assert said is not None
        return int(said[1].replace(",", ""))

    def stored(self, threshold: float, category: int | None = None) -> int:
        """Boxes with at least that score, as the Parquet says."""
        only = "" if category is None else f" and d.category_id = {category}"
        query = (
            f"select count(*) from '{self.run.uri}/labels/*/*.parquet', unnest(detections) t(d) "
            f"where d.score >= {threshold}::float{only}"
        )
        ((count,),) = duckdb.sql(query).fetchall()
        return int(count)

    def slide(self, selector: str, value: float) -> None:
        slide(self.browser, selector, value)

    def expect(self, count: int) -> None:
        """Wait until the page shows that many kept boxes."""
        eventually(lambda: self.kept() == count)

    def download(self, button: str, name: str) -> Path:
        self.browser.execute_script("arguments[0].click()", self.browser.find_element("id", button))
        return Path(eventually(lambda: next(self.downloads.glob(name), None)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("page")
    with chromium(folder / "downloads") as browser:
        run = write_run(folder / "run", write_input(folder / "in", "webdataset"), change=add_masks)
        truth = truth_of(run, folder / "gt.json")
        target = folder / "report.html"
        write_report(read_snapshot(run), str(target), thresholds=Thresholds(0.3), annotations=str(truth))
        browser.get(target.as_uri())
        yield Opened(run, browser, folder / "downloads")


@pytest.fixture
def fresh(page: Opened) -> Opened:
    """The page as it is when opened for the first time."""
    page.browser.execute_script("localStorage.clear()")
    page.browser.refresh()
    for path in page.downloads.glob("*"):
        path.unlink()
    set_window(page.browser, 1280, 900)
    return page


def test_nothing_goes_wrong_while_it_opens_and_no_name_becomes_markup(fresh: Opened) -> None:
    assert [entry["message"] for entry in fresh.browser.get_log("browser")] == []
    assert fresh.browser.title.startswith("Report of run")
    assert fresh.browser.find_elements("css selector", "img[src='x']") == []
    names = [option.text for option in fresh.browser.find_elements("css selector", "#category option")]
    assert HOSTILE in names
    never = fresh.browser.find_element("id", "never")
    assert "1 category was never found" in never.text


def test_sliders_count_what_the_parquet_holds(fresh: Opened) -> None:
    assert fresh.kept() == fresh.stored(0.3)
    for threshold in (0.05, 0.55, 0.91, 1.0):
        fresh.slide("#threshold", threshold)
        fresh.expect(fresh.stored(threshold))
    fresh.slide("#threshold", 0.4)
    fresh.slide("li[data-category='8'] input", 0.8)
    expected = fresh.stored(0.4) - fresh.stored(0.4, 8) + fresh.stored(0.8, 8)
    fresh.expect(expected)
    own = fresh.browser.find_element("css selector", "li[data-category='8'] .category-count").text
    assert own == f"{fresh.stored(0.8, 8)} of {fresh.stored(0, 8)}"


def test_boxes_follow_the_slider(fresh: Opened) -> None:
    def shown() -> list[float]:
        """Scores of the boxes that are drawn in the suspicious images."""
        script = "return [...document.querySelectorAll('#suspicious g:not(.off)')].map((group) => group.about.box[2])"
        return list(fresh.browser.execute_script(script))

    assert shown() == [], "nothing is drawn far from the window"
    fresh.browser.execute_script("document.getElementById('suspicious').scrollIntoView({behavior: 'instant'})")
    before = len(eventually(shown))
    fresh.slide("#threshold", 0.7)
    eventually(lambda: len(shown()) < before)
    assert min(shown()) >= 0.7


def test_the_downloaded_thresholds_are_accepted_by_export(fresh: Opened, tmp_path: Path) -> None:
    fresh.slide("#threshold", 0.35)
    fresh.slide("li[data-category='5'] input", 0.62)  # the one with the hostile name
    path = fresh.download("save-thresholds", "thresholds.yaml")
    thresholds = thresholds_for(fresh.run, path)
    assert (thresholds.default, thresholds.by_category) == (0.35, {5: 0.62})
    assert thresholds.fitted_on == fitted_on(fresh.run)
    assert fresh.run.manifest.run_id in path.read_text()
    exported = export_coco(read_snapshot(fresh.run), str(tmp_path / "coco.json"), thresholds=thresholds)
    fresh.expect(exported.annotations)


def test_a_category_that_is_left_out_stays_so_through_page_reload_and_download(fresh: Opened) -> None:
    def shown() -> tuple[str, str]:
        item = fresh.browser.find_element("css selector", "li[data-category='8']")
        return item.find_element("tag name", "output").text, item.find_element("class name", "category-count").text

    fresh.slide("li[data-category='8'] input", 1.01)  # the step after 1
    fresh.expect(fresh.stored(0.3) - fresh.stored(0.3, 8))
    assert shown() == ("never", f"0 of {fresh.stored(0, 8)}")
    fresh.browser.refresh()
    assert shown()[0] == "never"
    read = thresholds_for(fresh.run, fresh.download("save-thresholds", "thresholds.yaml"))
    assert (read.default, read.by_category) == (0.3, {8: NEVER})
    fresh.slide("#threshold", 1.01)
    fresh.expect(0)
    assert [entry["message"] for entry in fresh.browser.get_log("browser")] == []


def test_a_page_made_with_a_file_that_leaves_all_out_begins_there(page: Opened, tmp_path: Path) -> None:
    run, target = page.run, tmp_path / "report.html"
    write_report(read_snapshot(run), str(target), thresholds=Thresholds(NEVER, {8: 0.5}))
    page.browser.get(target.as_uri())
    try:
        assert page.browser.find_element("id", "threshold-value").text == "never"
        assert page.kept() == page.stored(0.5, 8)
    finally:
        page.browser.back()


def test_boxes_are_marked_by_keys_and_the_marks_downloaded(fresh: Opened) -> None:
    from selenium.webdriver.common.keys import Keys

    fresh.browser.execute_script("document.querySelector('#gallery .tile .open').focus()")
    for key in ("y", Keys.ARROW_RIGHT, "n", Keys.ARROW_RIGHT, "y", "u"):
        fresh.browser.switch_to.active_element.send_keys(key)
    assert len(fresh.browser.find_elements("css selector", "#gallery .tile.right")) == 1
    assert len(fresh.browser.find_elements("css selector", "#gallery .tile.wrong")) == 1
    values = json.loads(fresh.download("save-marks", "marks.json").read_text())
    assert values["run"] == fresh.run.manifest.run_id
    assert [mark["right"] for mark in values["marks"]] == [True, False]
    assert [mark["drawn"] for mark in values["marks"]] == [True, True], "the gallery shows boxes drawn at random first"
    for mark in values["marks"]:
        shard, index = mark["image"].split("/")
        where = f"'{fresh.run.uri}/labels/{shard}/*.parquet' where index = {index}"
        ((found,),) = duckdb.sql(f"select detections from {where}").fetchall()
        assert found[mark["box"]]["category_id"] == mark["category_id"]
        assert found[mark["box"]]["score"] == pytest.approx(mark["score"], abs=1e-7)


def test_marks_and_thresholds_outlast_a_reload(fresh: Opened) -> None:
    fresh.slide("#threshold", 0.44)
    fresh.browser.execute_script("document.querySelector('#gallery .mark.no').click()")
    fresh.expect(fresh.stored(0.44))
    fresh.browser.refresh()
    assert fresh.kept() == fresh.stored(0.44)
    assert fresh.browser.find_element("id", "save-marks").text.endswith("(1)")


def test_the_large_view_opens_by_enter_and_closes_by_escape(fresh: Opened) -> None:
    from selenium.webdriver.common.keys import Keys

    fresh.browser.execute_script("document.querySelector('#gallery .tile .open').focus()")
    fresh.browser.switch_to.active_element.send_keys(Keys.ENTER)
    dialog = fresh.browser.find_element("id", "large")
    eventually(dialog.is_displayed)
    painted = """
        const canvas = document.querySelector('#large canvas');
        return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value);
    """
    assert fresh.browser.execute_script(painted), "masks are drawn"
    fresh.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(lambda: not dialog.is_displayed())


def test_errors_against_truth_are_those_of_evaluate(fresh: Opened) -> None:
    points = {
        round(t, 2): (precision, recall)
        for t, precision, recall in fresh.browser.execute_script("return data.truth.all")
    }
    counted = """
        const all = data.images.filter((image) => image.truth).map((image) => judge(image, null));
        const of = (side, kind) => all.reduce((sum, one) => sum + one[side].filter((x) => x.kind === kind).length, 0);
        return [data.images.length, of('found', 'matched'), of('found', 'false'), of('objects', 'missed')];
    """
    ((with_boxes,),) = duckdb.sql(
        f"select count(*) from '{fresh.run.uri}/labels/*/*.parquet' where len(detections) > 0"
    ).fetchall()
    for threshold in (0.3, 0.6):
        fresh.slide("#threshold", threshold)
        fresh.expect(fresh.stored(threshold))
        images, right, wrong, missed = fresh.browser.execute_script(counted)
        assert images >= with_boxes, "all that have boxes are in this small file, so its counts are the run's"
        assert right / (right + wrong) == pytest.approx(points[threshold][0], abs=1e-4)
        assert right / (right + missed) == pytest.approx(points[threshold][1], abs=1e-4)


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 800)])
def test_it_fits_the_window(fresh: Opened, width: int, height: int) -> None:
    set_window(fresh.browser, width, height)
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert fresh.browser.execute_script(overflow) <= 0
    links = "const list = document.getElementById('sections'); return list.scrollWidth - list.clientWidth"
    assert fresh.browser.execute_script(links) <= 0, "every section's link is in sight"
    slider = fresh.browser.find_element("id", "threshold").rect
    assert 60 < slider["width"] < width
    fresh.browser.execute_script("document.querySelector('.tile .open').click()")
    dialog = fresh.browser.find_element("id", "large").rect
    assert dialog["width"] <= width
    assert dialog["height"] <= height


def test_every_control_has_a_name(fresh: Opened) -> None:
    nameless = """
        const named = (one) => one.getAttribute('aria-label') || one.textContent.trim() || one.alt
          || (one.labels && one.labels.length);
        return [...document.querySelectorAll('button, input, select, img')].filter((one) => !named(one))
          .map((one) => one.outerHTML);
    """
    assert fresh.browser.execute_script(nameless) == []
