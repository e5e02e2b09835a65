"""Two runs compared: what is the same, moved, renamed, lost and added, joined by digest in bounded memory."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.labels.thresholds import Thresholds
from labeler.review import join
from labeler.review.comparison import ChangeCounts, Comparison, compare_runs
from labeler.review.differences import compare_boxes
from labeler.runs import Run
from tests.browser import chromium, eventually, set_window
from tests.inputs import image_bytes
from tests.review_runs import CATEGORIES, HOSTILE, data_of, some_boxes, write_input, write_run

NONE = Detections.empty()
FIRST = Detections.of(
    [[0, 0, 20, 20], [30, 30, 60, 60], [70, 70, 90, 90], [100, 0, 120, 20]], [0.9, 0.8, 0.7, 0.6], [3, 3, 3, 8]
)
SECOND = Detections.of(
    [[0, 0, 20, 20], [33, 30, 63, 60], [70, 70, 90, 90], [0, 90, 20, 110]], [0.9, 0.8, 0.7, 0.6], [3, 3, 8, 8]
)


def compare(first: Run, second: Run, target: Path, threshold: float = 0.3, **options: Any) -> Comparison:
    return compare_runs((first, second), (Thresholds(threshold), Thresholds(threshold)), str(target), **options)


def test_no_boxes_have_no_differences() -> None:
    assert compare_boxes(NONE, NONE) == []
    assert [one.kind for one in compare_boxes(FIRST, NONE)] == ["lost"] * 4
    assert [one.kind for one in compare_boxes(NONE, FIRST)] == ["added"] * 4
    assert ChangeCounts().agreement is None


def test_each_box_is_the_same_moved_renamed_lost_or_added() -> None:
    found = {(one.kind, one.first, one.second) for one in compare_boxes(FIRST, SECOND)}
    assert found == {("same", 0, 0), ("moved", 1, 1), ("renamed", 2, 2), ("lost", 3, None), ("added", None, 3)}


@pytest.mark.parametrize("seed", range(20))
def test_every_box_counts_once_and_the_sides_may_be_exchanged(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides = []
    for count in rng.integers(0, 30, 2):
        corners = rng.uniform(0, 20, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(10, 25, (count, 2))], 1)
        sides.append(Detections.of(boxes, rng.random(count), rng.choice([3, 8], count)))
    first, second = sides
    found, back = compare_boxes(first, second), compare_boxes(second, first)
    assert sorted(one.first for one in found if one.first is not None) == list(range(len(first)))
    assert sorted(one.second for one in found if one.second is not None) == list(range(len(second)))
    swapped = {"lost": "added", "added": "lost"}
    turned = {(swapped.get(one.kind, one.kind), one.second, one.first) for one in back}
    assert turned == {(one.kind, one.first, one.second) for one in found}


def test_a_run_agrees_with_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"))
    found = compare(run, run, tmp_path / "c.html")
    assert (found.images, found.identical, found.total.agreement) == (24, 24, 1.0)
    ((kept,),) = duckdb.sql(
        f"select count(*) from '{tmp_path}/run/labels/*/*.parquet', unnest(detections) t(d) where d.score >= 0.3::float"
    ).fetchall()
    assert (found.total.first, found.total.second, found.total.same) == (kept, kept, kept)
    assert data_of((tmp_path / "c.html").read_text())["images"] == []


def shaken(rng: np.random.Generator, item: Any) -> Detections:
    """The boxes of `some_boxes` of the image, wherever it lies, with every third one renamed."""
    found = some_boxes(np.random.default_rng(len(item.data)), item)
    ids = np.where((np.arange(len(found)) % 3 == 1) & (found.category_ids != 8), 8, found.category_ids)
    return Detections.of(found.boxes, found.scores, ids)


def plain(rng: np.random.Generator, item: Any) -> Detections:
    return some_boxes(np.random.default_rng(len(item.data)), item)


def test_images_meet_by_digest_wherever_they_lie(tmp_path: Path) -> None:
    """The same images in tars and in a folder: other shards, other order, other names."""
    one = write_run(tmp_path / "one", write_input(tmp_path / "tars", "webdataset"), detect=plain)
    files = write_input(tmp_path / "files", "images", count=20)
    (files / "another.jpg").write_bytes(image_bytes(999, format="JPEG"))
    two = write_run(tmp_path / "two", files, format="images", detect=shaken)
    found = compare(one, two, tmp_path / "c.html")
    assert found.images == 20
    assert found.facts["alone"] == [4, 1]
    assert found.total.renamed == found.total.renamed_to > 0
    assert found.total.lost == found.total.added == found.total.moved == 0
    assert {after for _, after, _ in found.renamings} == {8}
    assert sum(boxes for *_, boxes in found.renamings) == found.total.renamed
    for counts in found.categories.values():
        assert counts.first == counts.same + counts.moved + counts.renamed + counts.lost
        assert counts.second == counts.same + counts.moved + counts.renamed_to + counts.added


def test_the_parts_of_the_join_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_input(tmp_path / "in", "webdataset")
    runs = [write_run(tmp_path / name, source, seed=seed) for seed, name in enumerate("ab")]
    whole = compare(*runs, tmp_path / "c.html")
    monkeypatch.setattr(join, "_PART_BYTES", 2000)
    monkeypatch.setattr(join, "_FLUSH_ROWS", 6)
    cut = compare(*runs, tmp_path / "d.html")
    assert (cut.categories, cut.images, cut.facts) == (whole.categories, whole.images, whole.facts)
    assert whole.total.agreement is not None
    assert 0 < whole.total.agreement < 0.9


def test_each_side_has_its_own_thresholds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"))
    found = compare_runs((run, run), (Thresholds(0.05), Thresholds(0.05, {8: 0.9})), str(tmp_path / "c.html"))
    assert found.categories[3].lost == found.categories[5].lost == 0
    ((lost,),) = duckdb.sql(
        f"select count(*) from '{tmp_path}/run/labels/*/*.parquet', unnest(detections) t(d) "
        "where d.category_id = 8 and d.score < 0.9::float"
    ).fetchall()
    assert found.categories[8].lost == lost > 0


def test_failed_and_repeated_images_are_counted_apart(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in", "images")
    (source / "copy.jpg").write_bytes((source / "0000.jpg").read_bytes())
    one = write_run(tmp_path / "one", source, format="images", failed={"0002.jpg": ("decode_error", "broken")})
    two = write_run(tmp_path / "two", source, format="images")
    found = compare(one, two, tmp_path / "c.html")
    assert found.images == 23
    assert found.facts["failed"] == [1, 0]
    assert found.facts["repeated"] == [1, 1]


def test_categories_meet_by_name_in_any_spelling(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in", "webdataset")
    moved = {3: 30, 8: 80, 5: 50}

    def renumbered(rng: np.random.Generator, item: Any) -> Detections:
        found = some_boxes(rng, item)
        return Detections.of(found.boxes, found.scores, [moved[int(id_)] for id_ in found.category_ids])

    spelled = [c | {"name": unicodedata.normalize("NFC", f"é {c['name']}")} for c in CATEGORIES]
    categories = [
        c | {"id": c["id"] * 10, "name": unicodedata.normalize("NFD", c["name"]).replace(" ", "_")} for c in spelled
    ]
    one = write_run(tmp_path / "one", source, categories=spelled)
    two = write_run(tmp_path / "two", source, detect=renumbered, categories=categories)
    assert compare(one, two, tmp_path / "c.html").total.agreement == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "nowhere"), "is not a labeler run"),
        (("a", "unfinished"), "incomplete"),
        (("a", "cats"), "only in the second run; did you mean cat?"),
        (("a", "elsewhere"), "no labeled image in common"),
        (("a", "a", "--threshold", "7"), "score from 0 to 1"),
        (("a", "a", "--output", "x.txt"), ".html file"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    source = write_input(tmp_path / "in", "webdataset")
    write_run(tmp_path / "a", source)
    makers: dict[str, Callable[[], Run]] = {
        "unfinished": lambda: write_run(tmp_path / "unfinished", source, finished=False),
        "cats": lambda: write_run(
            tmp_path / "cats", source, categories=[{"id": 1, "name": "catt"}], detect=lambda *_: NONE
        ),
        "elsewhere": lambda: write_run(
            tmp_path / "elsewhere", write_input(tmp_path / "o", "images", count=1), format="images", detect=plain,
            failed={"<b>&amp;.jpg": ("decode_error", "broken")},
        ),
    }  # fmt: skip
    makers.get(arguments[1], lambda: None)()  # type: ignore[arg-type, return-value]
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.html"))


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_input(tmp_path / "in", "webdataset")
    for seed, name in enumerate("ab"):
        write_run(tmp_path / name, source, seed=seed)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "c.html")]) == 0
    printed = capsys.readouterr().out
    values = json.loads((tmp_path / "c.json").read_text())
    assert f"{values['total']['agreement']:.3f}" in printed
    assert "24 images compared" in printed


def test_the_page_shows_the_differences_that_are_asked_for(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in", "webdataset")
    runs = [write_run(tmp_path / name, source, seed=seed) for seed, name in enumerate("ab")]
    found = compare(*runs, tmp_path / "c.html")
    with chromium(tmp_path / "downloads") as browser:
        browser.get((tmp_path / "c.html").as_uri())
        assert [entry["message"] for entry in browser.get_log("browser")] == []
        assert browser.title.startswith("Run ")
        numbers = browser.find_element("id", "numbers").text.split("\n")
        facts = dict(zip(numbers[::2], numbers[1::2], strict=True))
        assert facts["Agreement"] == f"{found.total.agreement:.3f}"
        assert facts["Images compared"] == "24"
        assert facts["Boxes"] == f"{found.total.first} → {found.total.second}"
        assert (facts["Lost"], facts["Added"]) == (str(found.total.lost), str(found.total.added))
        assert HOSTILE in browser.find_element("id", "category-table").text
        before = len(browser.find_elements("css selector", "#tiles .tile"))
        assert before > 0
        choose = """
            const chosen = document.getElementById(arguments[0]);
            chosen.value = arguments[1];
            chosen.dispatchEvent(new Event('change'));
        """
        browser.execute_script(choose, "category", "8")
        browser.execute_script(choose, "kind", "lost")
        shown = [figure.text for figure in browser.find_elements("css selector", "#tiles .tile")]
        assert shown
        assert all("lost" in text for text in shown)
        for width, height in ((1280, 900), (390, 800)):
            set_window(browser, width, height)
            overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert browser.execute_script(overflow) <= 0
        browser.find_element("css selector", "#tiles .open").send_keys("\n")
        eventually(browser.find_element("id", "large").is_displayed)
