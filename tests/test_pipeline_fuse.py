"""`labeler fuse` on stored runs: which rows meet, what the fused run says of the others, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from labeler.cli import main
from labeler.labels.masks import Mask
from labeler.runs.overlay import partner
from tests.fuse_parts import CAT, DOG, FIRST, LEFT, RIGHT, SECOND, boxes, fuse, in_units, rows_of, short, two_runs
from tests.label_runs import CATEGORIES, noisy_run, row, write_run

EXPECTED: list[tuple[str, list[tuple[int, float, int, int]]]] = [
    ("labeled", [(CAT, 0.7, 10, 2)]),
    ("labeled", [(DOG, 0.45, 100, 1)]),
    ("labeled", [(DOG, 0.6, 100, 1)]),
    ("labeled", [(CAT, 0.35, 100, 1), (CAT, 0.25, 10, 1)]),
    ("decode_error", []),
    ("labeled", [(CAT, 0.4, 10, 1)]),
]


def test_rows_meet_and_what_a_run_has_not_labeled_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two_runs(tmp_path)
    assert fuse(tmp_path) == 0
    rows = rows_of(tmp_path / "fused")
    assert [(row["status"], list(map(short, row["detections"]))) for row in rows] == EXPECTED
    id_ = second.manifest.run_id
    reasons = {2: f"fused without run {id_}: read_error", 5: f"fused without run {id_}: not in it"}
    assert {place: row["error"] for place, row in enumerate(rows) if row["error"]} == reasons
    printed = capsys.readouterr().out
    for reason in reasons.values():
        assert f"1 images: {reason}; list them: labeler export" in printed
    stored = json.loads((tmp_path / "fused/run.json").read_text())
    fields = stored["fingerprint_fields"]
    assert (stored["whole"], stored["schema_version"], fields["columns"]) == (True, 3, ["agreement"])
    assert fields["fused.runs"] == [first.manifest.run_id, id_]
    assert main(["export", str(tmp_path / "fused"), "--to", "coco", "--where", f"error = '{reasons[5]}'",
                 "--output", str(tmp_path / "out.json")]) == 0  # fmt: skip
    assert [image["file_name"] for image in json.loads((tmp_path / "out.json").read_text())["images"]] == [
        "part-0.tar/5.jpg"
    ]


@pytest.mark.parametrize("parts", [1, 100])
def test_the_order_and_the_units_of_the_other_run_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], parts: int
) -> None:
    monkeypatch.setattr(partner, "_PART_BYTES", 1 << 30 if parts == 1 else 1)
    monkeypatch.setattr(partner, "_PARTS_HELD", 1)
    shuffled = [
        row(0, SECOND[3].detections, digest=SECOND[3].digest),
        row(1, SECOND[0].detections, digest=SECOND[0].digest, image_key="renamed.jpg"),
        row(2, status="read_error", digest=None),  # at the very place that the first run has it
        row(3, boxes((LEFT, 0.9, CAT)), digest="e" * 32),  # of no image of the first run
        row(4, SECOND[1].detections, digest=SECOND[1].digest),
        row(5, SECOND[4].detections, digest=SECOND[4].digest),
        row(6, boxes((LEFT, 0.9, CAT)), digest=SECOND[0].digest),  # the same bytes again: the first row counts
    ]
    two_runs(tmp_path, shuffled)
    assert fuse(tmp_path) == 0
    rows = rows_of(tmp_path / "fused")
    assert [(row["status"], list(map(short, row["detections"]))) for row in rows] == EXPECTED
    assert "2 images of run" in capsys.readouterr().out, "one of no image, and one that the first run could not read"


def test_images_that_come_twice_get_the_boxes_twice(tmp_path: Path) -> None:
    write_run(tmp_path / "a", in_units([row(0), row(1, digest=row(0).digest)], 1), fields={"model": "a"})
    write_run(tmp_path / "b", in_units([row(0, boxes((LEFT, 0.8, CAT)))]), uris=["s3://b/other/x.tar"])
    assert fuse(tmp_path) == 0
    assert [len(row["detections"]) for row in rows_of(tmp_path / "fused")] == [1, 1]


def test_names_meet_by_name_and_a_run_that_did_not_look_for_one_has_no_say(tmp_path: Path) -> None:
    only_cats = [{"id": 70, "name": "Cat"}]
    seen = [row(0, boxes((LEFT, 0.6, 70))), *(row(index) for index in range(1, 6))]
    two_runs(tmp_path, seen, categories=only_cats)
    assert fuse(tmp_path) == 0
    rows = rows_of(tmp_path / "fused")
    assert list(map(short, rows[0]["detections"])) == [(CAT, 0.7, 10, 2)]
    assert list(map(short, rows[2]["detections"])) == [(DOG, 0.6, 100, 1)], "the second run knows no dogs"
    assert list(map(short, rows[3]["detections"])) == [(CAT, 0.25, 10, 1)]


def test_a_category_that_was_not_asked_for_in_an_image_is_none_that_was_not_found(tmp_path: Path) -> None:
    asked = [row(0, asked=[DOG]), row(1, asked=[CAT])]
    first = [row(0, boxes((LEFT, 0.8, CAT)), asked=[CAT]), row(1, boxes((LEFT, 0.8, CAT)), asked=[CAT])]
    for name, rows in (("a", first), ("b", asked)):
        write_run(tmp_path / name, in_units(rows), fields={"model": name}, columns=["asked"])
    assert fuse(tmp_path) == 0
    rows = rows_of(tmp_path / "fused")
    assert [round(row["detections"][0]["score"], 3) for row in rows] == [0.8, 0.4]
    assert [row["asked"] for row in rows] == [[CAT, DOG], [CAT]]


def test_scores_come_to_one_scale_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two detectors that say the same, one of them with the square of its precision."""
    for name, power in (("a", 1.0), ("b", 0.5)):
        run, truth = noisy_run(tmp_path / name, {3: power, 8: power}, images=60)
        (tmp_path / "gt.json").write_text(json.dumps(truth))
        command = ["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--target", "precision=0.5"]
        assert main([*command, "--output", str(tmp_path / f"{name}.yaml")]) == 0
    assert fuse(tmp_path, "--calibrated") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no calibration" in line
    assert "--raw-scores" in line
    files = [option for name in "ab" for option in ("--calibration", str(tmp_path / f"{name}.yaml"))]
    assert fuse(tmp_path, *files[:2]) == 2
    assert "1 times for 2 runs; give a file per run" in capsys.readouterr().err
    assert not (tmp_path / "fused").exists()
    assert not (tmp_path / "b/made").exists()
    assert fuse(tmp_path, *files, "--method", "nms") == 0
    a, b = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    both = zip(rows_of(tmp_path / "fused"), a, b, strict=True)
    of_second = [
        (found["score"], known[found["x_min"], found["y_min"]])
        for fused, _, other in both
        for known in [{(d["x_min"], d["y_min"]): d["score"] for d in other["detections"]}]
        for found in fused["detections"]
        if found["chunk"] == -1
    ]
    scores, raw = np.array([pair for pair in of_second if pair[1] > 0.1]).T
    np.testing.assert_allclose(scores, np.sqrt(raw), atol=0.15)
    assert fuse(tmp_path) == 2
    assert "fused.scores" in capsys.readouterr().err, "raw scores are another fusion"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--iou", "1.5"), "--iou is a number between 0 and 1, got 1.5"),
        (("--iou", "nan"), "--iou is a number between 0 and 1"),
    ],
)
def test_options_out_of_range_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    two_runs(tmp_path)
    assert fuse(tmp_path, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_runs_that_cannot_be_fused_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_runs(tmp_path)
    others = [row(0, digest="1" * 32, uri="s3://b/else.tar")]
    write_run(tmp_path / "elsewhere", in_units(others), uris=["s3://b/else.tar"])
    write_run(tmp_path / "unfinished", in_units(SECOND), unfinished=[0])
    birds = [*CATEGORIES, {"id": 40, "name": "bird"}]
    write_run(tmp_path / "birds", in_units(SECOND), categories=birds)
    write_run(tmp_path / "reviewed", in_units(SECOND), columns=["review", "source"])
    write_run(tmp_path / "masks", in_units(SECOND), fields={"masks": "sam"})
    cases: list[tuple[Sequence[str], Sequence[str], str]] = [
        (["a"], (), "a fusion takes two runs or more"),
        (["a", "a"], (), "is given twice"),
        (["a", "elsewhere"], (), "has other images than run"),
        (["a", "unfinished"], (), "has 1 unfinished shards; finish it first"),
        (["unfinished", "a"], (), "has 1 unfinished shards; finish it first"),
        (["a", "birds"], (), "has 1 categories that run"),
        (["a", "reviewed"], (), "has the column review, which a fused box cannot keep"),
        (["a", "masks"], ("--method", "nms"), "masks of different models, or some have none"),
        (["a", "nowhere"], (), "is not a labeler run"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for runs, options, message in cases:
        assert fuse(tmp_path, *options, runs=runs) == 2
        line, *more = capsys.readouterr().err.splitlines()
        assert message in line
        assert more == (['  "bird" (id 40)'] if "birds" in runs else [])
    assert sorted(tmp_path.rglob("*")) == before


def test_masks_stay_with_suppression_and_are_said_to_be_dropped_by_boxes_fusion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = Mask.of_window(np.ones((20, 20), np.bool_), left=10, top=10, height=480, width=640)
    for name, score in (("a", 0.6), ("b", 0.9)):
        found = boxes((LEFT, score, CAT)).with_masks([mask])
        write_run(tmp_path / name, in_units([row(0, found)]), fields={"model": name, "masks": "sam"})
    assert fuse(tmp_path, "--method", "nms") == 0
    (found,) = rows_of(tmp_path / "fused")[0]["detections"]
    assert (round(found["score"], 3), found["mask"]["counts"]) == (0.9, mask.counts)
    capsys.readouterr()
    assert main(["fuse", *(str(tmp_path / name) for name in "ab"), "--raw-scores"]) == 0
    assert "masks       dropped" in capsys.readouterr().out
    assert rows_of(tmp_path / "a-fused")[0]["detections"][0]["mask"] is None
    assert json.loads((tmp_path / "a-fused/run.json").read_text())["fingerprint_fields"]["masks"] is None


def test_forgetting_in_either_run_reaches_or_names_the_fusion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_runs(tmp_path)
    assert fuse(tmp_path) == 0
    (tmp_path / "names").write_text("part-0.tar/0.jpg\n")
    assert main(["forget", str(tmp_path / "b"), "--keys", str(tmp_path / "names")]) == 0
    assert f"may still show removed images, re-create it: {tmp_path / 'fused'}" in capsys.readouterr().out
    assert main(["forget", str(tmp_path / "a"), "--keys", str(tmp_path / "names")]) == 0
    assert rows_of(tmp_path / "fused")[0]["status"] == "removed"


def test_forgetting_names_fusions_of_a_fusion_and_fusions_in_a_folder_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_runs(tmp_path)
    for name in "cd":
        write_run(tmp_path / name, in_units(FIRST), fields={"model": name})

    def fuse_to(output: str, *runs: str) -> int:
        given = [str(tmp_path / run) for run in runs]
        return main(["fuse", *given, "--raw-scores", "--output", str(tmp_path / output)])

    assert fuse_to("ab", "a", "b") == 0
    assert fuse_to("c-ab", "c", "ab") == 0
    assert fuse_to("ab-d", "ab", "d") == 0
    assert fuse_to("b/sub", "c", "b") == 0
    (tmp_path / "names").write_text("part-0.tar/0.jpg\n")
    capsys.readouterr()
    assert main(["forget", str(tmp_path / "b"), "--keys", str(tmp_path / "names")]) == 0
    printed = capsys.readouterr().out.splitlines()
    for name in ("ab", "c-ab", "ab-d", "b/sub"):
        assert f"may still show removed images, re-create it: {tmp_path / name}" in [line.strip() for line in printed]


def test_a_refused_fusion_leaves_no_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_runs(tmp_path)
    write_run(tmp_path / "fused", in_units(FIRST), fields={"model": "c"})
    assert fuse(tmp_path) == 2
    (tmp_path / "names").write_text("part-0.tar/0.jpg\n")
    capsys.readouterr()
    assert main(["forget", str(tmp_path / "b"), "--keys", str(tmp_path / "names")]) == 0
    assert str(tmp_path / "fused") not in capsys.readouterr().out


def test_of_two_copies_the_labeled_one_counts(tmp_path: Path) -> None:
    alike = "a" * 32
    write_run(tmp_path / "a", {(0, 0): [row(0, boxes((LEFT, 0.5, CAT)), digest=alike)]}, fields={"model": "a"})
    failed, labeled = row(0, status="detect_error", digest=alike), row(1, boxes((LEFT, 0.7, CAT)), digest=alike)
    write_run(tmp_path / "b", {(0, 0): [failed], (0, 1): [labeled]}, fields={"model": "b"})
    assert fuse(tmp_path) == 0
    (one,) = rows_of(tmp_path / "fused")
    assert (list(map(short, one["detections"])), one["error"]) == ([(CAT, 0.6, 10, 2)], None)


def test_another_run_that_has_grown_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_runs(tmp_path, SECOND[:4])
    assert fuse(tmp_path) == 0
    assert fuse(tmp_path) == 0
    before = json.loads((tmp_path / "b/run.json").read_text())["run_id"]
    shutil.rmtree(tmp_path / "b")
    write_run(tmp_path / "b", in_units(SECOND), fields={"model": "b"})
    manifest = json.loads((tmp_path / "b/run.json").read_text())
    (tmp_path / "b/run.json").write_text(json.dumps({**manifest, "run_id": before}))
    capsys.readouterr()
    assert fuse(tmp_path) == 2
    assert f"run {tmp_path / 'b'} has other units than when the fusion in" in capsys.readouterr().err


def test_a_fused_run_is_neither_retried_nor_revised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_runs(tmp_path)
    assert fuse(tmp_path) == 0
    capsys.readouterr()
    for command in (
        ["retry", str(tmp_path / "fused"), "--status", "read_error"],
        ["revise", str(tmp_path / "fused"), "--vocabulary", "coco"],
    ):
        assert main(command) == 2
        assert "was fused from several runs, so no detector gives its rows" in capsys.readouterr().err


def test_a_fusion_can_be_fused_again(tmp_path: Path) -> None:
    two_runs(tmp_path)
    assert fuse(tmp_path) == 0
    write_run(tmp_path / "c", in_units(SECOND), fields={"model": "c"})
    assert main(["fuse", str(tmp_path / "fused"), str(tmp_path / "c"), "--raw-scores"]) == 0
    (found,) = rows_of(tmp_path / "fused-fused")[0]["detections"]
    assert short(found) == (CAT, 0.65, 10, 2)


def test_digests_that_are_alike_at_the_end_are_not_taken_for_equal(tmp_path: Path) -> None:
    write_run(tmp_path / "a", in_units([row(0, digest="a" * 32), row(1, digest="b" * 16 + "a" * 16)]))
    others = [row(0, boxes((LEFT, 0.8, CAT)), digest="b" * 16 + "a" * 16)]
    write_run(tmp_path / "b", in_units(others), uris=["s3://b/other/x.tar"], fields={"model": "b"})
    assert fuse(tmp_path) == 0
    assert [len(row["detections"]) for row in rows_of(tmp_path / "fused")] == [0, 1]


def many_units(folder: Path, images: int) -> None:
    for name in "ab":
        rows = [row(index, boxes((LEFT, 0.5, CAT), (RIGHT, 0.5, DOG))) for index in range(images)]
        write_run(folder / name, in_units(rows, 1), fields={"model": name})


@pytest.mark.slow
def test_killed_half_way_it_goes_on_and_two_at_once_agree(tmp_path: Path) -> None:
    many_units(tmp_path, 400)
    command = [sys.executable, "-m", "labeler", "fuse", str(tmp_path / "a"), str(tmp_path / "b"), "--raw-scores"]
    killed = subprocess.Popen([*command, "--output", str(tmp_path / "fused")], stdout=subprocess.DEVNULL)
    labels = tmp_path / "fused/labels/000000"
    while killed.poll() is None and len(list(labels.glob("*.parquet"))) < 3:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    written = {path.name: path.read_bytes() for path in labels.glob("*.parquet")}
    assert 0 < len(written) < 400
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(fuse(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    for name, data in written.items():
        assert (labels / name).read_bytes() == data
    rows = rows_of(tmp_path / "fused")
    assert len(rows) == 400
    assert {len(row["detections"]) for row in rows} == {2}
    assert json.loads((tmp_path / "fused/report.json").read_text())["complete"]


def test_a_damaged_unit_of_the_other_run_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_runs(tmp_path)
    damaged = tmp_path / "b/labels/000000/000001.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    assert fuse(tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(damaged) in line
    assert "is damaged" in line
    damaged.write_bytes(whole)
    assert fuse(tmp_path) == 0
    assert len(rows_of(tmp_path / "fused")) == 6
