"""`make gpu` as far as a CPU goes: its processes and limits, its rows and its table, and its parts at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import bench, device_checks, exactness, journal, plan, recovery
from benchmarks.gpu.summary import NOT_MEASURED, RESULTS, summary
from labeler.detectors.grounding_dino.split_forward import SplitForward

ROOT = Path(__file__).parent.parent
ABOUT = {"device": "NVIDIA H200", "versions": {"torch": "2"}, "commit": "abc1234", "cpus": 2}
# Nothing of these is needed on a machine that measures.
UNNEEDED = ("ray", "boto3", "botocore", "matplotlib", "pytest", "triton")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return journal.read(folder / journal.RESULTS)


def journal_in(folder: Path, part: str = "reference", limit_s: float = 60) -> journal.Journal:
    return journal.Journal(folder, ABOUT, part, plan.BY_NAME[part].kind, limit_s)


def test_the_parts_take_twelve_minutes_at_most_and_correctness_comes_first() -> None:
    assert sum(part.limit_s for part in plan.PARTS) <= plan.TOTAL_S == 12 * 60
    kinds = [part.kind for part in plan.PARTS]
    assert kinds == sorted(kinds, key=[plan.SETUP, plan.CORRECTNESS, plan.SPEED].index)


def test_every_row_is_written_at_once_with_device_versions_and_commit(tmp_path: Path) -> None:
    rows = journal_in(tmp_path)
    rows.check("first", True)
    (row,) = rows_of(tmp_path)
    assert row | ABOUT == row
    assert (row["part"], row["kind"], row["outcome"]) == ("reference", "correctness", "passed")
    with (tmp_path / journal.RESULTS).open("a") as file:
        file.write('{"part": "refer')  # a process that was killed while it wrote
    assert rows_of(tmp_path) == [row]


def test_a_step_that_raises_is_a_failed_row_and_the_next_one_runs(tmp_path: Path) -> None:
    rows = journal_in(tmp_path)
    rows.step("bad", lambda: [][1])
    rows.step("good", lambda: rows.row("good"))
    rows.step("long", lambda: rows.row("long"), needs_s=61)
    found = {row["what"]: row for row in rows_of(tmp_path)}
    assert found["bad"]["outcome"] == "failed"
    assert found["bad"]["reason"] == "IndexError: list index out of range"
    assert found["good"]["outcome"] == "measured"
    assert found["long"]["outcome"] == "skipped"
    assert rows.failures == 1


def test_a_part_that_takes_too_long_is_killed_and_its_row_says_so(tmp_path: Path) -> None:
    """It dies while it imports torch."""
    runner = gpu.Runner(tmp_path, tmp_path, ABOUT, small=True, total_s=100)
    part = plan.Part("checks", plan.CORRECTNESS, 0, "device_checks:checks", "")
    assert runner.run(part) == "failed"
    (row,) = rows_of(tmp_path)
    assert (row["what"], row["reason"]) == ("part", "killed at its limit of 0 s")
    assert row["commit"] == "abc1234"


def test_a_part_that_has_no_time_left_is_a_row_too(tmp_path: Path) -> None:
    runner = gpu.Runner(tmp_path, tmp_path, ABOUT, small=True, total_s=3)
    assert runner.run(plan.BY_NAME["engines"]) == "skipped"
    assert rows_of(tmp_path)[0]["reason"] == "3 s left of 3"


def test_a_part_runs_in_a_process_of_its_own_and_is_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work" / "checkpoint").mkdir(parents=True)
    (tmp_path / "work" / "checkpoint" / "config.json").touch()  # the part needs none
    command = ["--output", str(tmp_path), "--work", str(tmp_path / "work"), "--small", "--parts", "checks"]
    monkeypatch.setattr(gpu, "probe", lambda: {**_about(), "no_gpu": "none"})
    assert gpu.main(command) == 0
    skipped, without_ray, end = rows_of(tmp_path)
    assert (skipped["outcome"], skipped["reason"]) == ("skipped", "it needs a GPU")
    assert without_ray["outcome"] == "passed"
    assert end["outcome"] == "ended"
    printed = capsys.readouterr().out
    assert "1 parts, 14400 s at most" in printed
    assert "skipped: it needs a GPU" in (tmp_path / "summary.md").read_text()


def _about() -> dict[str, Any]:
    return {**ABOUT, "versions": dict.fromkeys(["torch", "transformers", "triton"])}


def test_without_a_gpu_nothing_runs_unless_it_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "probe", lambda: {**_about(), "no_gpu": "torch 2: no device is visible"})
    assert gpu.main(["--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "torch 2: no device is visible" in line
    assert "SMALL=1" in line
    assert not (tmp_path / "out").exists()


def test_only_a_correctness_part_that_failed_makes_the_command_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "probe", lambda: {**_about(), "no_gpu": ""})
    for failing, code in (("stages", 0), ("engines", 1)):
        monkeypatch.setattr(gpu.Runner, "run", lambda _, part, bad=failing: "failed" if part.name == bad else "ended")
        assert gpu.main(["--output", str(tmp_path), "--work", str(tmp_path / "work")]) == code


def test_a_package_that_is_missing_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_PROBE", "import a_package_that_is_missing")
    assert gpu.main(["--output", str(tmp_path / "out"), "--small"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No module named 'a_package_that_is_missing'" in line


def test_the_parts_need_few_packages_and_no_ray() -> None:
    program = f"""
import importlib, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {UNNEEDED!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Without())
for part in importlib.import_module("benchmarks.gpu.plan").PARTS:
    importlib.import_module("benchmarks.gpu." + part.function.partition(":")[0])
import benchmarks.gpu.__main__
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.fixture
def small(tmp_path: Path) -> bench.Bench:
    found = bench.Bench(journal_in(tmp_path, limit_s=600), tmp_path, small=True)
    found.all_names = found.all_names[:60]
    return found


def test_the_split_forward_is_compared_with_transformers_own(
    small: bench.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exactness.reference(small)
    assert [row["outcome"] for row in rows_of(tmp_path)] == ["passed"] * 4, "two images per kind of model"
    detect = SplitForward.detect

    def wrong(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits, boxes = detect(*given)
        return logits, boxes + 0.01

    monkeypatch.setattr(SplitForward, "detect", wrong)
    exactness.reference(small)
    assert [row["outcome"] for row in rows_of(tmp_path)[4:]] == ["failed"] * 4
    assert small.journal.failures == 4
    assert "**failed**: 4 of 8; split forward: 0.0% of" in summary(rows_of(tmp_path))


@pytest.mark.slow  # two engines in half precision on a CPU
def test_what_overflows_in_half_precision_has_to_be_found_all_the_same(
    small: bench.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovery._overflow(small)
    assert [(row["outcome"], row["overflows"]) for row in rows_of(tmp_path)] == [("passed", True)] * 2
    monkeypatch.setattr(recovery, "_FACTOR", 1.0)
    recovery._overflow(small)
    assert [row["overflows"] for row in rows_of(tmp_path)[2:]] == [False] * 2, (
        "the check notices that it checks nothing"
    )


def test_the_checks_of_a_device_are_a_row_each(tmp_path: Path) -> None:
    checks = tmp_path / "some_checks.py"
    checks.write_text(
        "import pytest\ndef test_good(): print('kernel 1 ms')\ndef test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='no')\ndef test_skipped(): pass\n"
    )
    rows = device_checks.Rows(journal_in(tmp_path, "checks"))
    pytest.main(
        ["--noconftest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(checks)], plugins=[rows]
    )
    found = {row["what"]: row for row in rows_of(tmp_path)}
    assert found["test_good"]["outcome"] == "passed"
    assert found["test_good"]["printed"] == "kernel 1 ms"
    assert found["test_bad"]["outcome"] == "failed"
    assert "assert 1 == 2" in found["test_bad"]["reason"]
    assert found["test_skipped"]["outcome"] == "skipped"


def test_the_table_says_what_was_predicted_and_that_nothing_was_measured() -> None:
    text = summary([])
    assert "predicted for an H200 (estimated)" in text
    lines = text.splitlines()[2:]
    assert len(lines) > 25
    assert all(line.endswith(f"| {NOT_MEASURED} |") for line in lines)


def test_a_part_that_gave_nothing_says_why_in_every_line_of_it(tmp_path: Path) -> None:
    end = {"what": "part", **ABOUT}
    rows: list[dict[str, Any]] = [
        {"part": "stages", "outcome": "failed", "reason": "killed at its limit of 75 s", **end},
        {"part": "ways", "what": "4 chunks", "outcome": "skipped", "reason": "3 s left of 70", **ABOUT},
        {"part": "ways", "outcome": "ended", **end},
        {"part": "labeling", "what": "labeling", "outcome": "failed", "reason": "RuntimeError: a | b", **ABOUT},
        {"part": "labeling", "outcome": "failed", "reason": "a check or a step failed", **end},
        {"part": "checkpoint", "what": "one copy", "outcome": "measured", "tb_per_s": 4.31, **ABOUT},
        {"part": "reference", "what": "split forward", "outcome": "passed", **ABOUT},
        {"part": "engines", "what": "fast engine", "outcome": "passed", **ABOUT},
        {"part": "engines", "outcome": "ended", **end},
    ]
    lines = {line.split(" | ")[0]: line for line in summary(rows).splitlines()}
    assert lines["| image backbone"].endswith("failed: killed at its limit of 75 s |")
    assert lines["| 4 chunks; d: labeler"].endswith("skipped: 3 s left of 70 |")
    assert lines["| labeling from JPEG bytes, 1 chunk"].endswith("failed: RuntimeError: a / b |")
    assert lines["| one copy"].endswith("| 4.3 TB/s | 4.31 TB/s |")
    assert lines["| one product"].endswith("failed: the measurement was cut off |")
    correct = [line for line in lines.values() if line.startswith("| correct")]
    assert [line.rpartition(" | ")[2] for line in correct] == [
        *("**failed**: cut off |", "passed, 1 checks |", f"{NOT_MEASURED} |", f"{NOT_MEASURED} |")
    ]
    assert "measured on NVIDIA H200, commit abc1234" in summary(rows)


def test_the_docs_show_the_table_of_the_last_measurement() -> None:
    text = summary(journal.read(RESULTS / "gpu.jsonl"))
    page = (ROOT / "docs" / "explanation" / "speed.md").read_text()
    assert text in page, "python -m benchmarks.gpu.summary prints another table"


@pytest.mark.slow  # a dozen processes that import torch
def test_everything_runs_at_a_small_size_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--output", str(tmp_path / "out"), "--small"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr + (tmp_path / "out" / "log.txt").read_text()[-3000:]
    rows = rows_of(tmp_path / "out")
    assert all({"device", "versions", "commit"} <= row.keys() for row in rows)
    ends = {row["part"]: row["outcome"] for row in rows if row["what"] == journal.PART}
    assert ends == dict.fromkeys(plan.BY_NAME, "ended")
    assert not [row for row in rows if row["outcome"] == "failed"]
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "failed" not in text
    assert NOT_MEASURED not in text
    assert json.dumps(rows[0]["device"]).strip('"') in text
