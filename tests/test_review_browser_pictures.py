"""The page's images in a real Chromium: box tiles, names, zoom, settings, and skipped blocks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import page_scale
from labeler.labels.detections import Detections
from labeler.labels.thresholds import Thresholds
from labeler.review import write_report
from labeler.review.comparison import compare_runs
from labeler.review.pictures import region_around
from labeler.runs import read_snapshot
from tests.browser import chromium, eventually, set_window
from tests.inputs import image_bytes
from tests.review_runs import CATEGORIES, write_run

CAT, DOG, HIDDEN = [40, 40, 360, 340], [400, 60, 440, 100], [300, 400, 316, 412]
FOUND = Detections.of([CAT, DOG, HIDDEN], [0.9, 0.8, 0.2], [3, 8, 8])
MANY = [{"id": number, "name": f"thing {number:04d}"} for number in range(700)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of 600 x 450 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "in").mkdir()
    for number in range(3):
        (folder / "in" / f"{number}.jpg").write_bytes(image_bytes(number, width=600, height=450, format="JPEG"))
    return folder


def page_of(
    folder: Path, name: str, detect: Any = lambda *_: FOUND, categories: Any = None, *, images: int = 400
) -> Path:
    run = write_run(folder / name, folder / "in", format="images", detect=detect, categories=categories)
    write_report(read_snapshot(run), str(folder / f"{name}.html"), thresholds=Thresholds(0.3), max_images=images)
    return folder / f"{name}.html"


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Any]:
    with chromium(folder / "downloads") as browser:
        yield browser


@pytest.fixture
def report(browser: Any, folder: Path) -> Any:
    """The report of three images, each with a cat, a dog and a dog below the threshold; the dogs are in the gallery."""
    page = folder / "plain.html"
    browser.get((page if page.exists() else page_of(folder, "plain")).as_uri())
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    set_window(browser, 1280, 900)
    browser.execute_script("openCategory(8); document.getElementById('gallery').scrollIntoView({behavior: 'instant'})")
    eventually(lambda: browser.execute_script("return document.querySelectorAll('#gallery .tag').length"))
    return browser


NAMES = """
const tags = [...document.querySelectorAll(arguments[0])];
return tags.filter((tag) => tag.checkVisibility()).map((tag) => tag.textContent);
"""
COVERED = """
const common = (a, b) => Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left))
  * Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
const places = (what) => [...document.querySelectorAll(`#large ${what}`)].map((one) => one.getBoundingClientRect());
const boxes = places('rect.box'), tags = places('.tag');
return tags.length < 3 ? null
  : boxes.map((box) => tags.reduce((sum, tag) => sum + common(box, tag), 0) / (box.width * box.height));
"""  # of each box, the part that names cover
WIDEST = """
return Math.max(...[...document.querySelectorAll('#large rect.box')].map((one) => one.getBoundingClientRect().width));
"""
WHEEL = """
const turn = { deltaY: -1, clientX: 400, clientY: 300, cancelable: true, bubbles: true };
document.getElementById('large-picture').dispatchEvent(new WheelEvent('wheel', turn));
"""
CUT = """
const fit = document.querySelector('#tiles .fit');
return fit.querySelector('.sheet').clientWidth / fit.clientWidth;
"""
TILES = """
return [...document.querySelectorAll('#gallery .tile')].map((tile) => {
  const fit = tile.querySelector('.fit').getBoundingClientRect();
  const main = [...tile.querySelectorAll('g.main rect.box')].map((rect) => rect.getBoundingClientRect())[0];
  const style = getComputedStyle(tile.querySelector('.picture'));
  return {
    score: tile.about.box[2], dropped: tile.classList.contains('dropped'), filter: style.filter, opacity: style.opacity,
    display: getComputedStyle(tile.querySelector('g.main')).display,
    inside: main.left >= fit.left - 2 && main.right <= fit.right + 2
      && main.top >= fit.top - 2 && main.bottom <= fit.bottom + 2,
    share: main.width / fit.width, names: [...tile.querySelectorAll('.tag')].map((tag) => tag.textContent),
  };
});
"""


def test_a_tile_shows_its_box_large_and_in_full_color_also_below_the_threshold(report: Any) -> None:
    tiles = report.execute_script(TILES)
    assert len(tiles) == 6
    for tile in tiles:
        assert tile["dropped"] == (tile["score"] < 0.3)
        assert (tile["filter"], tile["opacity"], tile["display"]) == ("none", "1", "inline")
        assert tile["inside"]
        assert tile["share"] > 0.15, "in the whole image the box has a fifteenth of the width, or less"
        assert f"dog {tile['score']:.2f}" in tile["names"]


def test_other_boxes_have_their_names_and_can_be_hidden_with_them(report: Any) -> None:
    report.execute_script("openCategory(3)")
    others = "#gallery .tag.other"
    names = eventually(lambda: report.execute_script(NAMES, others))
    assert set(names) == {"dog"}, "the kept one; the other is below its threshold"
    report.find_element("id", "others").click()
    assert report.execute_script(NAMES, others) == []


def test_no_name_covers_a_small_object(browser: Any, folder: Path) -> None:
    """Small dogs above, below and beside one another: each name has to go elsewhere."""
    dogs = [[400, 60 + 16 * row, 412, 72 + 16 * row] for row in range(5)]
    found = Detections.of([CAT, *dogs], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [3, 8, 8, 8, 8, 8])
    browser.get(page_of(folder, "close", lambda *_: found).as_uri())
    browser.execute_script("document.querySelector('#gallery .open').click()")
    assert max(eventually(lambda: browser.execute_script(COVERED))) < 0.2


def test_the_page_and_the_crops_agree_about_the_part_of_an_image(report: Any) -> None:
    rng = np.random.default_rng(1)
    asked = []
    for _ in range(200):
        width, height = (int(side) for side in rng.integers(20, 3000, 2))
        xs, ys = np.sort(rng.uniform(-5, width + 5, 2)).round(1), np.sort(rng.uniform(-5, height + 5, 2)).round(1)
        asked.append([[float(xs[0]), float(ys[0]), float(xs[1]), float(ys[1])], width, height])
    script = "return arguments[0].map(([box, width, height]) => regionAround(box, { width, height }))"
    found = report.execute_script(script, asked)
    assert found == [list(region_around(box, width, height)) for box, width, height in asked]


def test_the_large_view_zooms_by_keys_wheel_and_name_and_marks(report: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def level() -> int:
        return int(report.find_element("id", "zoom-level").text.removesuffix(" %"))

    report.execute_script("document.querySelector('#gallery .tile .open').focus()")
    report.switch_to.active_element.send_keys(Keys.ENTER)
    eventually(lambda: report.find_element("id", "zoom-level").text == "100 %")
    whole = report.execute_script(WIDEST)
    report.switch_to.active_element.send_keys("+")
    assert level() == 150
    assert report.execute_script(WIDEST) == pytest.approx(1.5 * whole, rel=0.01)
    report.execute_script(WHEEL)
    assert level() == 180
    report.switch_to.active_element.send_keys("0")
    assert (level(), report.execute_script(WIDEST)) == (100, pytest.approx(whole))
    names = report.find_elements("css selector", "#large-boxes button.label")
    assert [name.text for name in names] == ["cat 0.90", "dog 0.80", "dog 0.20 ↓"]
    names[2].click()
    assert level() > 400
    script = "return [...document.querySelectorAll('#large g')].filter((g) => !g.classList.contains('off')).length"
    assert report.execute_script(script) == 3, "below the threshold, too"
    report.find_element("id", "below").click()
    assert report.execute_script(script) == 2
    report.switch_to.active_element.send_keys("n")
    assert report.execute_script("return [...marks.values()].map(({ box, right }) => [box, right])") == [[1, False]]
    report.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(lambda: not report.find_element("id", "large").is_displayed())
    assert [entry["message"] for entry in report.get_log("browser")] == []


def test_settings_and_vocabulary_are_shown_when_they_are_opened(report: Any) -> None:
    def inside(name: str) -> str:
        return str(report.execute_script("return document.getElementById(arguments[0]).textContent", name))

    assert "detect.score_floor" not in inside("settings")
    report.execute_script("for (const name of ['settings', 'vocabulary']) document.getElementById(name).open = true")
    eventually(lambda: "detect.score_floor0.05" in inside("settings") and "model.nametiny" in inside("settings"))
    assert "4 categories, 1 negative" in inside("vocabulary")
    for expected in ("unicorn", "asked as hostile", "Negative, never stored: sky"):
        assert expected in inside("vocabulary")


def test_a_run_that_found_nothing_has_no_empty_blocks(browser: Any, folder: Path) -> None:
    browser.get(page_of(folder, "nothing", lambda *_: Detections.empty()).as_uri())
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    links = [link.text for link in browser.find_elements("css selector", "#sections a") if link.is_displayed()]
    assert links == ["Overview", "Categories"]
    assert {one.get_attribute("id") for one in browser.find_elements("css selector", "section:not([hidden])")} == {
        "overview",
        "categories",
    }
    assert browser.find_elements("css selector", "#timeline, #find, #category-list") == []
    assert browser.find_element("id", "never").text == "4 categories were never found"


def test_a_list_of_very_many_categories_is_filled_when_it_is_pointed_at(browser: Any, folder: Path) -> None:
    def detect(rng: Any, item: Any) -> Detections:
        """Each image has boxes of 300 categories; those of the first 100 in no other image."""
        ids = np.arange(300) + item.index * 200
        return Detections.of(np.tile(np.array([[10, 10, 90, 90]]), (300, 1)), np.linspace(0.9, 0.4, 300), ids)

    browser.get(page_of(folder, "many", detect, MANY, images=2).as_uri())
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    options = "return document.querySelectorAll('#category option').length"
    assert browser.execute_script(options) == 1
    unseen = browser.execute_script("return fired.find(({ id }) => !pictured.has(id)).id")
    browser.execute_script("openCategory(arguments[0])", unseen)
    said = browser.find_element("id", "gallery-bands").text
    assert said.startswith(f"Not among the images of this file: boxes of thing {unseen:04d}, 1 from ")
    browser.execute_script("document.getElementById('category').focus()")
    eventually(lambda: browser.execute_script(options) == 700)
    assert browser.execute_script("return document.getElementById('category').value") == str(unseen)
    assert browser.execute_script("return document.querySelectorAll('#category optgroup').length") == 2


@pytest.mark.slow
def test_the_page_of_10000_categories_is_small_and_soon_drawn(tmp_path: Path) -> None:
    """The benchmark's own chain on fewer images; the best of three, because the machine may be busy."""
    asked = argparse.Namespace(boxes=30, pictures=60, rounds=3, keep=False)
    for row in page_scale.measure(tmp_path, 10_000, 4000, asked):
        assert row["page_mb"] < 20
        assert row["images_shown"] > 150
        assert min(row["seconds"]) < 2


def test_the_comparison_begins_with_its_pictures(browser: Any, folder: Path) -> None:
    other = Detections.of([[50, 40, 370, 340], DOG], [0.9, 0.8], [3, 5])
    runs = [write_run(folder / name, folder / "in", format="images", detect=lambda *_, found=found: found)  # type: ignore[misc]
            for name, found in (("one", FOUND), ("two", other))]  # fmt: skip
    compare_runs((runs[0], runs[1]), (Thresholds(0.1), Thresholds(0.1)), str(folder / "c.html"))
    browser.get((folder / "c.html").as_uri())
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert browser.execute_script("return document.querySelector('main > section').id") == "gallery"
    assert browser.find_element("css selector", "#tiles .tile").rect["y"] < 500, "in sight without scrolling"
    choose = (
        "const kind = document.getElementById('kind'); kind.value = 'lost'; kind.dispatchEvent(new Event('change'))"
    )
    browser.execute_script(choose)
    eventually(lambda: browser.execute_script(NAMES, "#tiles .tile:first-child .tag") == ["dog"])
    assert browser.execute_script(CUT) > 1.5, "cut to the dog that was lost"
    browser.find_element("css selector", "#tiles .open").click()
    lines = [line.text for line in browser.find_elements("css selector", "#large-boxes button.label")]
    renamed = next(line for line in lines if line.startswith("renamed"))
    assert renamed.startswith("renamed: dog 0.80 →")
    assert CATEGORIES[2]["name"] in renamed
