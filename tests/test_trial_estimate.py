"""What an estimate is made of: images counted from headers, a sample without its failures, a range, and the workers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from labeler.cli import main
from labeler.config import Config, make_config
from labeler.labeling.resolve import plan_input
from labeler.pipeline.site import site_of
from labeler.trial.counting import Count, count_images
from labeler.trial.estimate import _END_S, RunEstimate, Site, Timing, describe_range, estimate, format_seconds
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes


def config_of(tmp_path: Path, *overrides: str, model: Path | str = "unused") -> Config:
    values = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "vocabulary": NAMES}
    return make_config(values | {"model": {"name": str(model)}}, list(overrides))


def write_config(tmp_path: Path, checkpoint: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"input: {tmp_path}/in\noutput: {tmp_path}/out\nvocabulary: [cat, dog]\nmodel: {{name: {checkpoint}}}\n"
    )
    return path


def test_images_are_counted_from_the_headers_of_a_few_tars_within_five_percent(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    (tmp_path / "in").mkdir()
    images = 0
    for shard in range(40):  # of 20 to 60 images of all sizes, and a text beside every second one
        members: dict[str, bytes] = {}
        for index in range(int(rng.integers(20, 60))):
            members[f"{index:03d}.jpg"] = bytes(int(rng.integers(2_000, 12_000)))
            members |= {f"{index:03d}.txt": b"a caption"} if index % 2 else {}
            images += 1
        (tmp_path / "in" / f"{shard:03d}.tar").write_bytes(tar_bytes(members))
    config = config_of(tmp_path)
    count = count_images(config, plan_input(config))
    assert not count.exact
    assert count.shards == 5
    assert abs(count.images - images) <= 0.05 * images


def test_what_a_plan_knows_or_was_read_through_is_exact(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):
        (tmp_path / "in" / f"{index}.png").write_bytes(image_bytes(index))
    config = config_of(tmp_path)
    assert count_images(config, plan_input(config)) == Count(3, exact=True)
    for index in range(3):
        (tmp_path / "in" / f"{index}.png").unlink()
    (tmp_path / "in" / "a.tar").write_bytes(tar_bytes({f"{i}.png": image_bytes(i) for i in range(7)}))
    assert count_images(config, plan_input(config)) == Count(7, exact=True, shards=1)


def timing(**values: float) -> Timing:
    return Timing(**{"images": 10, "seconds": 5.0, "image_bytes": 1, "label_bytes": 1, "device": "cpu", **values})


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.5, 10.0])
def test_the_upper_end_is_at_most_twice_the_lower(tmp_path: Path, spread: float) -> None:
    found = estimate(config_of(tmp_path, "unit.max_images=256"), timing(spread=spread), Count(1000, True), Site(4))
    assert found.low_s < found.high_s <= 2 * found.low_s + 1e-9


def middle(found: RunEstimate) -> float:
    return (found.low_s + found.high_s) / 2 - found.start_s - _END_S


def test_start_up_counts_and_workers_beyond_the_units_do_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path, "unit.max_images=100")
    slow = estimate(config, timing(start_s=60), Count(100_000, True), Site(10))
    assert slow.start_s > 60
    assert middle(slow) == pytest.approx(100_000 * 0.5 / 10)
    assert slow.worker_hours == pytest.approx(100_000 * 0.5 / 3600)
    assert middle(estimate(config, timing(), Count(200, True), Site(50))) == pytest.approx(100 * 0.5)  # two units
    assert middle(estimate(config, timing(), Count(300, True), Site(2))) == pytest.approx(200 * 0.5)  # two rounds
    joined = estimate(config, timing(), Count(300, True), Site(2, starts_ray=False))
    assert joined.start_s < slow.start_s - 60


def test_the_start_up_is_printed_where_it_is_below_the_range() -> None:
    assert describe_range(RunEstimate(46, 92, 22, 0.1)) == "46 s to 92 s, of which start-up 22 s"
    assert describe_range(RunEstimate(28, 56, 39, 0.1)) == "28 s to 56 s"


def test_seconds_are_written_as_people_say_them() -> None:
    assert [format_seconds(s) for s in (42, 210, 44_280)] == ["42 s", "3.5 min", "12.3 h"]


def test_the_place_is_this_machine_unless_a_cluster_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # as another test of this process may have left it
    assert site_of(config_of(tmp_path), on_gpu=False) == Site(1, starts_ray=True)
    assert site_of(config_of(tmp_path, "ray.workers=4"), on_gpu=False) == Site(4, starts_ray=True)


@pytest.mark.parametrize(
    ("nodes", "overrides", "workers", "note"),
    [
        ([{"CPU": 8.0, "GPU": 2.0}], [], 2, "a CPU was timed"),
        ([{"CPU": 8.0}, {"CPU": 8.0}], [], 1, "no GPU yet, and the job will wait for one"),
        ([{"CPU": 8.0}, {"CPU": 8.0}], ["ray.gpus_per_worker=0"], 2, ""),
        ([{"CPU": 8.0}, {"CPU": 8.0}], ["model.device=cpu"], 2, ""),
    ],
)
def test_a_cluster_for_gpus_is_never_counted_by_its_cpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    overrides: list[str],
    workers: int,
    note: str,
) -> None:
    monkeypatch.setattr("labeler.pipeline.site.connect", lambda address, console: False)
    monkeypatch.setattr("labeler.pipeline.site.alive_nodes", lambda place: nodes)
    found = site_of(config_of(tmp_path, "ray.address=auto", *overrides), on_gpu=False)
    assert (found.workers, found.starts_ray) == (workers, False)
    assert note in found.note
    assert bool(found.note) == bool(note)


def test_failures_of_the_sample_are_no_timing_and_are_printed_by_reason(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    members = {"a.png": image_bytes(0), "b.png": image_bytes(1), "c.jpg": b"<html>", "d.png": b""}
    (tmp_path / "in" / "a.tar").write_bytes(tar_bytes(members))
    config = str(write_config(tmp_path, checkpoint))
    assert main(["estimate", config, "--images", "4", "--price-per-hour", "2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^timed    2 images in .* images/s per worker$", out, re.MULTILINE)
    failed = re.findall(r"^failed   of 4 sampled images (.*)$", out, re.MULTILINE)
    assert len(failed) == 2
    assert all(line.startswith("decode_error 1 (") for line in failed)
    assert re.search(
        r"^estimate 4 images on 1 worker: \d+ s to \d+ s; .* CPU-hours of labeling$",
        out,
        re.M,  # start-up is the most
    )
    assert re.search(r"^cost     \d+\.\d\d to \d+\.\d\d at 2 per CPU-hour$", out, re.M)
    assert not (tmp_path / "out").exists()
    assert main(["label", config, "--dry-run", "--time-images", "0"]) == 0
    out = capsys.readouterr().out
    assert "timed    nothing, as 0 images were asked for" in out
    assert "input    1 shard, " in out
    assert "images/s" not in out


def test_a_sample_of_which_nothing_can_be_labeled_is_exit_2_with_the_reason(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tar_bytes({f"{i}.jpg": b"<html>" for i in range(3)}))
    config = str(write_config(tmp_path, checkpoint))
    for argv in (["estimate", config], ["label", config, "--dry-run"]):
        assert main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("labeler: none of 3 sampled images could be labeled: decode_error 3 (")
    assert main(["estimate", config, "--images", "-1"]) == 2
    assert "-1 images cannot be timed" in capsys.readouterr().err
