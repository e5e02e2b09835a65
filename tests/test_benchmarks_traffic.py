"""`benchmarks.traffic`: every operation of a forward pass is counted, timed, and part of one table each way."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import traffic
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.profiling import counted_operations
from tests.detector_parts import WORDS, photo


def test_the_operations_of_a_forward_are_those_that_torch_counts(tmp_path: Path) -> None:
    folder = create_checkpoint(tmp_path, words=WORDS, kind="original", redraw=True)
    detector = GroundingDino(folder, ["cat", "dog"], device="cpu", engine="fast", threads=1)
    timed, rate, bandwidth = traffic.measure(detector, photo(0), rounds=2)
    with torch.no_grad(), counted_operations() as operations:
        detector._passes(detector._passes.upload([detector.prepare(photo(0))]))
        expected = operations()
    costs = timed.costs.values()
    # torch's own counter does not know a CPU's attention.
    attention = sum(cost.operations for found, cost in timed.costs.items() if "attention" in found[1])
    whole = sum(cost.operations for cost in costs)
    assert whole - attention == pytest.approx(expected)
    assert 0 < attention < 0.1 * expected
    assert all(cost.least_s == max(cost.operations / rate, cost.size / bandwidth) for cost in costs)
    kinds = traffic.grouped(timed, lambda found: traffic._kind(found[1]))
    assert kinds["what lies between them"].operations == 0
    assert kinds["products, convolutions and attention"].operations == pytest.approx(whole)
    assert {"encoder: fusion", "decoder", "image backbone"} <= {part for part, _, _ in timed.costs}


def test_the_tables_are_printed_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create_checkpoint(tmp_path / "model", words=WORDS, kind="original", redraw=True)
    monkeypatch.setattr(traffic, "_COPY", 2**16)
    monkeypatch.setattr(traffic, "_SIDE", 64)
    command = ["traffic", "--model", str(folder), "--edges", "128", "171", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "traffic.json")])
    threads = torch.get_num_threads()
    try:
        traffic.main()
    finally:
        torch.set_num_threads(threads)
    result = json.loads((tmp_path / "traffic.json").read_text())
    assert {"device", "versions", "commit"} <= result["machine"].keys()
    whole = [
        sum(cost["seconds"] for cost in result[title].values())
        for title in ("products and the rest", "by part", "by operation", "by operation and shape")
    ]
    assert whole == pytest.approx([whole[0]] * 4)
    assert "of which" in capsys.readouterr().out
