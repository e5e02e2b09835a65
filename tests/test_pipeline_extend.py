"""Runs that grow: new shards, new images in a folder, and images that stay forgotten."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from labeler.errors import Refused
from labeler.runs import open_run
from labeler.runs.erasure.erase import forget
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.test_pipeline import config_of, files_of, rows_of, run_quietly

pytestmark = pytest.mark.usefixtures("local_ray")


def test_extend_adds_new_shards_only(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=2, images=5)
    config = config_of(source, tmp_path / "out", checkpoint)
    run_quietly(config)
    before = files_of(tmp_path / "out")
    write_tars(source, shards=3, images=5, first=2)
    assert len(rows_of(tmp_path / "out")) == 10
    run_quietly(config, extend=True)
    after = files_of(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {"report.json"}
    assert "plan/00001.parquet" in after
    assert Counter(row["shard_id"] for row in rows_of(tmp_path / "out")) == {f"{s:06d}": 5 for s in range(5)}
    run_quietly(config, extend=True)
    assert "plan/00002.parquet" not in files_of(tmp_path / "out")


def test_a_plan_that_a_limit_cut_is_not_extended(tmp_path: Path, checkpoint: Path) -> None:
    """Its last shard is planned in part, and the rest of it would be silently skipped."""
    source = write_tars(tmp_path / "in", shards=2, images=3)
    run_quietly(config_of(source, tmp_path / "out", checkpoint, "input.limit=4"))
    with pytest.raises(Refused, match=r"input.limit cut the plan inside .*1\.tar"):
        run_quietly(config_of(source, tmp_path / "out", checkpoint), extend=True)


@pytest.mark.slow
def test_extend_finds_new_images_of_a_folder(tmp_path: Path, checkpoint: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(5):
        (source / f"{i}.png").write_bytes(image_bytes(i))
    config = config_of(source, tmp_path / "out", checkpoint)
    run_quietly(config)
    (source / "0_new.png").write_bytes(image_bytes(7))
    run_quietly(config, extend=True)
    keys = [row["image_key"] for row in rows_of(tmp_path / "out")]
    assert sorted(keys) == sorted([f"{i}.png" for i in range(5)] + ["0_new.png"])
    assert len(keys) == len(set(keys))


@pytest.mark.slow
def test_what_was_forgotten_is_not_labeled_again_by_any_later_run(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=1, images=6)
    config = config_of(source, tmp_path / "out", checkpoint)
    run_quietly(config)
    run = open_run(str(tmp_path / "out"))
    assert run is not None
    forget(run, ["000_0002.png"])
    (tmp_path / "out/labels/000000/000000.parquet").unlink()  # as if it had never been committed
    assert run_quietly(config).report.statuses == {"labeled": 5, "removed": 1}
    (source / "00001.tar").write_bytes(tar_bytes({"copy.png": image_bytes(2), "new.png": image_bytes(50)}))
    assert run_quietly(config, extend=True).report.statuses == {"labeled": 6, "removed": 2}
    other = config_of(source, tmp_path / "other", checkpoint, f"input.exclude=[{tmp_path / 'out'}]")
    assert run_quietly(other).report.statuses == {"labeled": 6, "removed": 2}
    assert [row["image_key"] for row in rows_of(tmp_path / "other") if row["status"] == "removed"] == [
        "000_0002.png", "copy.png"
    ]  # fmt: skip
