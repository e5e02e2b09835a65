"""Which side of a split an image is on, and which images a balanced export takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from labeler.cli import main
from labeler.errors import Refused
from labeler.exports.near_copies import group
from labeler.exports.splits import key_of, parse_splits
from labeler.labels.detections import Detections
from labeler.runs import Run, read_snapshot
from tests.export_parts import FOUR, export, images, run_of
from tests.label_runs import row


def split_of_images(run: Run, folder: Path, *options: str) -> dict[str, str]:
    """digest -> split."""
    out = folder / f"out-{len(list(folder.iterdir()))}"
    assert main(["export", run.uri, "--to", "coco", "--output", str(out), *options]) == 0
    found = {}
    ids = {}
    for number, shown in enumerate(_rows(run), 1):
        ids[number] = shown
    for path in out.glob("*.json"):
        if path.name != "export.json":
            for image in json.loads(path.read_text())["images"]:
                found[ids[image["id"]]] = path.stem
    return found


def _rows(run: Run) -> list[str]:
    return [d for t in read_snapshot(run).tables() for d in t["digest"].to_pylist()]


def test_a_split_has_its_shares_and_stays_when_the_run_grows(tmp_path: Path) -> None:
    small, large = images(150), images(450)
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
    before = split_of_images(run_of(tmp_path / "small", small), tmp_path / "small", "--split", "train=0.8,val=0.2")
    after = split_of_images(run_of(tmp_path / "large", large), tmp_path / "large", "--split", "train=0.8,val=0.2")
    assert len(after) == 450
    assert {d: after[d] for d in before} == before
    assert 0.75 < list(after.values()).count("train") / 450 < 0.85
    assert set(after.values()) == {"train", "val"}


def test_copies_and_near_copies_are_on_one_side(tmp_path: Path) -> None:
    rows = []
    for scene in range(60):
        base = int(np.random.default_rng(scene).integers(0, 2**62))
        for copy in range(3):  # each differs from the next in 3 bits, so the ends in 6
            near = base ^ (0b111 << (3 * copy)) if copy else base
            index = len(rows)
            rows.append(row(index, FOUR, phash=near, digest=f"{key_of(str(index)):032x}"))
    run = run_of(tmp_path, rows)
    halves = ("--split", "a=0.5,b=0.5")
    together = split_of_images(run, tmp_path, *halves)
    apart = split_of_images(run, tmp_path, *halves, "--near-copies", "off")
    by_scene = [
        {splits[r.digest or ""] for r in rows[3 * s : 3 * s + 3]} for splits in (together, apart) for s in range(60)
    ]
    assert all(len(sides) == 1 for sides in by_scene[:60])
    assert sum(len(sides) == 2 for sides in by_scene[60:]) > 20, "without it scenes are split"
    assert set(together.values()) == {"a", "b"}


def test_groups_of_a_kept_column_are_on_one_side(tmp_path: Path) -> None:
    rows = [row(i, FOUR, digest=f"{i:032x}", kept={"film": f"film {i // 5}" if i < 80 else None}) for i in range(100)]
    run = run_of(tmp_path, rows, keep=["film"])
    for more in ((), ("--near-copies", "off")):
        found = split_of_images(run, tmp_path, "--split", "a=0.5,b=0.5", "--group-by", "film", *more)
        sides = [{found[r.digest or ""] for r in rows[5 * s : 5 * s + 5]} for s in range(20)]
        assert all(len(side) == 1 for side in sides[:16])
        assert any(len(side) == 2 for side in sides[16:]), "images without a film go by themselves"


def test_near_copies_are_those_that_comparing_all_with_all_finds() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**63, 40).astype(np.uint64)
    hashes = base[rng.integers(0, 40, 200)]
    for _ in range(3):  # up to three bits flipped, anywhere
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, 200).astype(np.uint64))
    for bits in (0, 1, 3, 7):
        near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= bits
        reach = near.copy()
        for _ in range(12):  # transitive closure by squaring
            reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
        labels = group(hashes, np.ones(200, np.bool_), None, bits=bits)
        assert (reach == (labels[:, None] == labels[None])).all()
    assert group(hashes[:0], np.zeros(0, np.bool_), None, bits=3).tolist() == []


def test_images_whose_hash_is_unknown_are_no_copies_of_each_other() -> None:
    labels = group(np.zeros(3, np.uint64), np.array([True, False, False]), None, bits=3)
    assert len(set(labels.tolist())) == 3


@pytest.mark.parametrize("text", ["", "train", "train=x", "train=0", "train=0.5,val=0.6", "a b=1"])
def test_a_bad_split_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="--split"):
        parse_splits(text)


def test_a_balanced_export_keeps_rare_categories_whole(tmp_path: Path) -> None:
    cat, dog = (Detections.of([[0, 0, 9, 9]], [0.9], [id_]) for id_ in (3, 8))
    both = Detections.concat([cat, Detections.of([[50, 50, 99, 99]], [0.9], [8])])
    rows = [row(i, both if i % 50 == 0 else dog if i % 2 else None, digest=f"{i:032x}") for i in range(200)]
    values = export(run_of(tmp_path, rows), "--images-per-category", "10")
    with_box = {c: {a["image_id"] for a in values["annotations"] if a["category_id"] == c} for c in (3, 8)}
    assert len(with_box[3]) == 4, "all cats there are"
    assert 10 <= len(with_box[8]) <= 14, "ten dogs, and those beside cats"
    empty = {i["id"] for i in values["images"]} - with_box[3] - with_box[8]
    assert len(empty) == 10, "images without objects are balanced, too"
    assert len(export(run_of(tmp_path, rows), "--images-per-category", "1000")["images"]) == 200
