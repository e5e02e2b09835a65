"""The training job as a whole: it learns, it is rejected in a line, and it resumes after being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from training_parts import TINY, job_values, tiny_checkpoint

from labeler.cli import main
from labeler.detectors.grounding_dino.detector import GroundingDino
from labeler.errors import Refused
from labeler.training.config import load_training_job, make_training_job
from labeler.training.job import run_worker
from labeler.training.outputs import Outputs
from labeler.training.schedule import lr_factor, progress
from tests.waiting import wait_until

CONFIGS = Path(__file__).parent.parent / "configs"


def _train(output: Path, **sections: Any) -> list[dict[str, Any]]:
    run_worker(make_training_job(job_values(output, **sections)))
    return _log(output)


def _log(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def _weights(output: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(output / "state.pt", weights_only=True)
    return state


def test_a_job_of_one_step_leaves_a_checkpoint_that_the_detector_takes(tmp_path: Path) -> None:
    train = {"steps": 1, "batch_size": 2, "loaders": 0, "threads": 1}
    log = _train(tmp_path / "out", train=train, validation={"steps": 1, "shapes": {"images": 1}})
    assert [record["step"] for record in log] == [1, 1]
    assert {"loss", "loss_ce", "loss_giou_encoder", "lr", "seconds_per_step"} <= set(log[0])
    assert {"ap_seen", "recall_seen"} <= set(log[1])
    detector = GroundingDino(tmp_path / "out" / "checkpoint", ["red circle"], device="cpu", score_floor=0.0)
    assert len(detector.detect([np.zeros((70, 80, 3), np.uint8)])[0]) > 0
    assert detector.preprocessing.rule.size == (80, 120)


def test_it_learns(tmp_path: Path) -> None:
    data = {"shapes": {"seed": 3, "images": 2, "max_objects": 2}}
    train = {"steps": 40, "batch_size": 2, "log_steps": 20, "loaders": 0, "threads": 1}
    log = _train(tmp_path / "out", data=data, train=train, optimizer={"lr": 3e-3, "warmup_steps": 5})
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_it_goes_on_from_a_checkpoint_and_freezes_what_it_is_told_to(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start")
    _train(tmp_path / "out", model={"name": str(start)}, optimizer={"lr": 1e-2, "backbone_factor": 0})
    from safetensors.torch import load_file

    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "out" / "checkpoint"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("model.backbone.") for name in changed)
    assert any(name.startswith("model.text_backbone.") for name in changed)


def test_a_job_that_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    steps = {"batch_size": 2, "log_steps": 2, "loaders": 0, "threads": 1, "dropout": True}
    _train(tmp_path / "whole", train={**steps, "steps": 4})
    job = make_training_job(job_values(tmp_path / "parts", train={**steps, "steps": 4, "save_seconds": 1e-6}))
    outputs = Outputs(str(tmp_path / "parts"))

    def stop(record: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(job, report=stop)  # in step 2, which is not saved
    state = outputs.read_state()
    assert state is not None
    assert state["step"] == 1
    run_worker(job)
    whole, parts = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert parts["step"] == 4
    for name, value in whole["detector"].items():
        torch.testing.assert_close(parts["detector"][name], value, rtol=0, atol=0)
    assert [r["step"] for r in _log(tmp_path / "parts")] == [2, 4]


def test_killed_at_any_moment_the_same_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, config = tmp_path / "out", tmp_path / "train.yaml"
    train = {"steps": 100_000, "batch_size": 2, "log_steps": 1, "loaders": 0, "threads": 1, "save_seconds": 0.3}
    config.write_text(yaml.safe_dump(job_values(output, train=train)))
    command = [sys.executable, "-m", "jobs.train", str(config)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: (output / "checkpoint" / "model.safetensors").is_file() or child.poll() is not None)
        assert child.poll() is None, "the job ended by itself"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    state = Outputs(str(output)).read_state()
    assert state is not None
    GroundingDino(output / "checkpoint", ["red circle"], device="cpu")
    assert main(["train", str(config), f"train.steps={state['step'] + 2}"]) == 0  # in this process: it starts sooner
    assert f"step {state['step'] + 2:g}" in capsys.readouterr().out
    steps = [record["step"] for record in _log(output)]
    assert steps == list(range(1, state["step"] + 3))


def test_batches_prepared_by_another_process_are_the_same(tmp_path: Path) -> None:
    for name, loaders in (("own", 0), ("other", 1)):
        _train(tmp_path / name, train={"steps": 2, "batch_size": 2, "loaders": loaders, "threads": 1})
    own, other = _weights(tmp_path / "own"), _weights(tmp_path / "other")
    for name, value in own["detector"].items():
        torch.testing.assert_close(other["detector"][name], value, rtol=0, atol=0)


def test_a_finished_job_has_nothing_to_do(tmp_path: Path) -> None:
    log = _train(tmp_path / "out")
    assert _train(tmp_path / "out") == log


def test_another_job_in_the_same_output_is_refused(tmp_path: Path) -> None:
    _train(tmp_path / "out", train={"steps": 1, "batch_size": 2, "loaders": 0})
    with pytest.raises(Refused, match="holds a training job with another data"):
        _train(tmp_path / "out", data={"shapes": {"seed": 4}})


@pytest.mark.slow  # Ray's two workers are tested, too, and cost less
def test_two_processes_take_the_steps_that_one_takes(tmp_path: Path) -> None:
    values = job_values(tmp_path / "one", train={"steps": 2, "batch_size": 4, "loaders": 0, "threads": 1})
    run_worker(make_training_job(values))
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump({**values, "output": str(tmp_path / "two")}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, "-m", "jobs.train", str(config)], check=True, capture_output=True)
    one, two = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    assert two["step"] == 2
    # Only rounding differs; Adam amplifies it if a gradient is nearly 0.
    pairs = [(one["detector"][name], two["detector"][name]) for name in one["detector"]]
    close = torch.cat([(a - b).abs().flatten() < 1e-4 for a, b in pairs if a.is_floating_point()])
    assert close.float().mean() > 0.97


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "say either model.name"),
        ({"data": {}}, "say one of data.shapes, data.annotations"),
        ({"data": {"shapes": {}, "run": "x"}}, "say one of data.shapes, data.annotations"),
        ({"train": {"steps": 1, "batch_size": 3}, "ray": {"workers": 2}}, "must be a multiple of ray.workers=2"),
        ({"train": {"stepz": 1}}, "unknown key train.stepz"),
        ({"data": {"shapes": {"combinations": "sene"}}}, "no combinations called 'sene'"),
        ({"model": {"new": {"size": {"wings": 2}}}}, "wings"),
        ({"model": {"new": {"size": TINY, "config": {"wings": 2}}}}, "has no wings"),
        ({"model": {"name": "/no/such/folder"}}, "does not exist on this machine"),
    ],
)
def test_a_wrong_job_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(job_values(tmp_path / "out", **change)))
    assert main(["train", str(config)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_shipped_configuration_is_valid_and_trains_without_what_is_held_out() -> None:
    job = load_training_job(CONFIGS / "train_shapes.yaml", ["train.steps=1"])
    assert job.data.shapes is not None
    assert job.data.shapes.combinations == "seen"
    assert job.train.steps == 1


def test_the_configuration_for_a_run_s_labels_is_valid() -> None:
    assert load_training_job(CONFIGS / "train_on_labels.yaml").data.run == "pseudo"


def test_the_schedule_warms_up_falls_and_ends_by_the_clock_or_by_steps() -> None:
    assert progress(5, 10, 0.0, None) == 0.5
    assert progress(5, 10, 90.0, 100.0) == 0.9
    assert progress(50, 10, 0.0, None) == 1.0
    factors = [lr_factor(step, step / 100, warmup_steps=10, final_factor=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11, rel=0.01)
    assert max(factors) == max(factors[8:12])
    assert factors[-1] == pytest.approx(0.1)
