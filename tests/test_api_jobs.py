"""Labeling from a program, on a real local Ray: silent, without signal handlers, resumable, told how far it is."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import labeler
from labeler.pipeline.display import JobProgress
from tests.conftest import NAMES
from tests.inputs import write_tars

pytestmark = pytest.mark.usefixtures("local_ray")


def values_of(tmp_path: Path, checkpoint: Path, *, shards: int = 2) -> dict[str, Any]:
    return {
        "input": str(write_tars(tmp_path / "in", shards=shards, images=6)),
        "output": str(tmp_path / "run"),
        "vocabulary": list(NAMES),
        "model": {"name": str(checkpoint)},
        "unit": {"max_images": 3},
        "ray": {"cpus_per_worker": 1, "workers": 1},
    }


class StopNow(Exception):
    pass


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the logger `labeler` is told while inside."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("labeler")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_a_program_labels_stops_resumes_and_reads(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    during, seen = [], list[JobProgress]()

    def stop_at_first(progress: JobProgress) -> None:
        during.append([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)])
        if progress.job_images:
            raise StopNow

    values = values_of(tmp_path, checkpoint, shards=16)  # far more than are labeled until it stops
    with pytest.raises(StopNow):
        labeler.label(values, on_progress=stop_at_first)
    stopped = labeler.open_run(tmp_path / "run")
    assert not stopped.is_complete

    with logged() as messages:
        run = labeler.label(labeler.as_config(values), ["detect.images_per_batch=2"], on_progress=seen.append)
    assert run.is_complete
    assert run.id == stopped.id
    assert len(list(run.rows())) == 96
    assert (seen[-1].images, seen[-1].total) == (96, 96)
    assert 0 < seen[-1].job_images < 96
    assert all(each == handlers for each in during)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert any("shards on" in message for message in messages)
    out, err = capfd.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if "core_worker.cc" not in line] == []  # Ray's own, of the tests' cluster

    dataset = run.to_ray_dataset(["image_key", "status", "detections"])
    rows = sorted(dataset.take_all(), key=lambda row: str(row["image_key"]))
    assert [row["image_key"] for row in rows] == sorted(row.image_key for row in run.rows())
    assert {row["status"] for row in rows} == {row.status for row in run.rows()}
    assert sum(len(row["detections"]) for row in rows) == run.report().detections


def test_a_preview_needs_no_ray_and_writes_nothing(tmp_path: Path, checkpoint: Path) -> None:
    values = values_of(tmp_path, checkpoint)
    found = labeler.preview(values, images=3, threshold=0.2)
    assert found.png.startswith(b"\x89PNG")
    assert found._repr_png_() == found.png  # a notebook draws it
    assert repr(found).startswith("Preview(statuses=")
    assert sum(found.statuses.values()) == 3
    assert not (tmp_path / "run").exists()


def test_a_detector_of_any_family_is_loaded_by_name(tmp_path: Path, checkpoint: Path) -> None:
    pictures = write_tars(tmp_path / "in", shards=1, images=1)
    detector = labeler.Detector.load(checkpoint, NAMES, detect={"score_floor": 0.0, "max_detections": 5}, threads=1)
    assert [category.name for category in detector.vocabulary.categories] == list(NAMES)
    image = labeler.decode(next(iter(_members(pictures / "00000.tar")))).pixels
    (tmp_path / "a.png").write_bytes(next(iter(_members(pictures / "00000.tar"))))
    as_array, as_path = detector.detect(images=[image, tmp_path / "a.png"])
    (again,) = detector.detect([(tmp_path / "a.png").read_bytes()])
    assert 0 < len(as_array) <= 5
    assert as_array.boxes.tolist() == as_path.boxes.tolist() == again.boxes.tolist()
    plain = labeler.GroundingDino(str(checkpoint), list(NAMES), score_floor=0.0, max_detections=5, threads=1)
    assert plain.detect([image])[0].scores.tolist() == as_array.scores.tolist()


def _members(tar: Path) -> list[bytes]:
    import tarfile

    with tarfile.open(tar) as opened:
        return [opened.extractfile(member).read() for member in opened]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": {"name": "x"}}, "modle"),
        ({"detect": {"scorefloor": 0.1}}, "scorefloor"),
        ({"model": {"name": "/nowhere/at/all"}}, "/nowhere/at/all"),
        ({"input": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_a_wrong_config_is_refused_before_anything_is_written(
    tmp_path: Path, checkpoint: Path, change: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(labeler.Refused) as refused:
        labeler.label({**values_of(tmp_path, checkpoint), **change})
    assert message in " ".join([str(refused.value), *refused.value.problems])
    assert not (tmp_path / "run").exists()
    assert capfd.readouterr() == ("", "")


def test_what_is_no_config_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(labeler.Refused, match="got int"):
        labeler.label(3)  # type: ignore[arg-type]
    with pytest.raises(labeler.Refused, match=r"none\.yaml"):
        labeler.label(tmp_path / "none.yaml")


def test_overrides_work_on_every_kind_of_config(tmp_path: Path, checkpoint: Path) -> None:
    values = {
        "input": (tmp_path / "a", "b"),
        "output": tmp_path / "out",
        "vocabulary": ("cat", "dog"),
        "model": MappingProxyType({"name": checkpoint}),
    }
    plain = labeler.as_config(values)
    assert plain.input_uris == (str(tmp_path / "a"), "b")
    overrides = ["input.limit=3", "vocabulary.name=coco", "model.device=cpu"]
    changed, again = labeler.as_config(values, overrides), labeler.as_config(plain, overrides)
    assert changed == again
    assert (changed.input.limit, changed.input_uris) == (3, plain.input_uris)
    assert (changed.model.name, changed.model.device) == (str(checkpoint), "cpu")


def test_an_image_without_pixels_is_refused(checkpoint: Path) -> None:
    detector = labeler.Detector.load(checkpoint, NAMES, threads=1)
    with pytest.raises(labeler.Refused, match="got uint8"):
        detector.detect([np.zeros((0, 5, 3), np.uint8)])
