"""What a job exports to Prometheus: the totals are those of its report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from labeler.labels.unit_work import UnitWork
from labeler.pipeline import metrics
from labeler.pipeline.blocks import Receipt, receipt_block, receipts_of
from labeler.pipeline.metrics import Metrics
from tests.inputs import image_bytes, tar_bytes
from tests.prometheus import scrape
from tests.ray_heads import ROOT, free_port, ray_head
from tests.waiting import PATIENCE_S

# A job in its own process: its detector has three images per batch and two passes, and its storage fails once.
JOB = """
import sys
from labeler.config import make_config
from labeler.pipeline.label import label
from tests.conftest import NAMES
from tests.metered import MakeMetered

source, output, checkpoint, address = sys.argv[1:]
values = {"input": source, "output": output, "vocabulary": NAMES, "model": {"name": checkpoint}}
overrides = ["unit.max_images=4", "detect.images_per_batch=3", "ray.cpus_per_worker=1", f"ray.address={address}",
             "ray.gpus_per_worker=0"]
label(make_config(values, overrides), make_detector=MakeMetered())
"""


def write_input(folder: Path) -> None:
    folder.mkdir()
    for shard in range(2):
        members = {f"{shard}{index}.png": image_bytes(index) for index in range(6)} | {f"{shard}x.jpg": b"<html>"}
        (folder / f"{shard}.tar").write_bytes(tar_bytes(members))


def totals_in(report: dict[str, Any]) -> dict[str, float]:
    """What the counters must say, by the names of `scrape`."""
    plain = {
        name: report[name] for name in ("detections", "units", "passes", "retries", "memory_halvings", "bytes_read")
    }
    by_status = {f"images_total{{status={status}}}": images for status, images in report["statuses"].items()}
    return {f"{name}_total": count for name, count in plain.items()} | by_status | {"images_total": report["images"]}


@pytest.mark.slow
def test_the_scraped_counters_equal_the_report(tmp_path: Path, checkpoint: Path) -> None:
    write_input(tmp_path / "in")
    port = free_port()
    with ray_head("--num-cpus=3", f"--metrics-export-port={port}") as head:
        arguments = [str(tmp_path / "in"), str(tmp_path / "out"), str(checkpoint), head.address]
        subprocess.run([sys.executable, "-c", JOB, *arguments], cwd=ROOT, check=True, capture_output=True)
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        expected = totals_in(report)
        deadline = time.monotonic() + PATIENCE_S
        while (found := scrape(port)).get("images_total") != report["images"] and time.monotonic() < deadline:
            time.sleep(0.2)
    assert {name: found.get(name, 0) for name in expected} == expected
    assert report["statuses"] == {"labeled": 12, "decode_error": 2}
    assert report["passes"] == 24
    assert report["memory_halvings"] >= 1
    assert report["retries"] >= 1
    assert report["bytes_read"] == sum(2 * len(image_bytes(index)) for index in range(6)) + 2 * len(b"<html>")
    for stage in ("read", "decode", "detect", "write"):
        assert found[f"stage_seconds_count{{stage={stage}}}"] == report["units"]
    assert found["batch_fill_count"] == report["units"]
    exported = {f"labeler_{name.partition('{')[0]}" for name in found}
    assert exported <= metrics.exported_names()


class Recorder(Metrics):
    """Adds up what is counted, without a Ray."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        for kind in ("Counter", "Histogram"):
            monkeypatch.setattr(metrics, kind, lambda name, *rest: Sum(name, self.counts))
        super().__init__("run")


class Sum:
    def __init__(self, name: str, counts: Counter[str]) -> None:
        self._name, self._counts = name, counts

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self._counts[self._name] += value

    def observe(self, value: float, tags: dict[str, str]) -> None:
        self._counts[self._name] += 1


def test_a_unit_that_comes_again_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    receipt = Receipt("unit", "000000", 3, counts={"labeled": 2}, detections=5, work=UnitWork(passes=4, bytes_read=10))
    for each in (Receipt("unit", "000000", 3, error="timed out"), receipt, receipt, Receipt("end", "000000")):
        recorder.receive(each)
    assert recorder.counts == {
        "labeler_unit_errors": 1,
        "labeler_images": 2,
        "labeler_units": 1,
        "labeler_detections": 5,
        "labeler_passes": 4,
        "labeler_bytes_read": 10,
    }


def test_receipts_survive_the_way_through_ray() -> None:
    work = UnitWork(read_s=0.5, decode_s=1.5, passes=6, forwards=2, places=8, filled=6, retries=1, bytes_read=7)
    receipt = Receipt("unit", "000001", 2, counts={"labeled": 3}, detections=4, work=work)
    assert receipts_of(receipt_block(receipt)) == [receipt]
