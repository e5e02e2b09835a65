"""The training job on Ray Train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from training_parts import job_values

from labeler.cli import main
from labeler.training.config import make_training_job
from labeler.training.job import run_worker

STEPS = {"steps": 2, "batch_size": 2, "log_steps": 1, "loaders": 0, "threads": 1}


@pytest.mark.slow
def test_two_ray_workers_train_what_one_process_trains(tmp_path: Path, local_ray: None) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(job_values(tmp_path / "ray", train=STEPS, ray={"workers": 2})))
    assert main(["train", str(config)]) == 0
    run_worker(make_training_job(job_values(tmp_path / "here", train=STEPS)))
    logs = [[json.loads(line) for line in (tmp_path / n / "log.jsonl").open()] for n in ("ray", "here")]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]] == [1, 2]
    ours, theirs = (torch.load(tmp_path / n / "state.pt", weights_only=True)["detector"] for n in ("here", "ray"))
    # Only rounding differs; Adam amplifies it if a gradient is nearly 0.
    close = torch.cat([(ours[k] - theirs[k]).abs().flatten() < 1e-4 for k in ours if ours[k].is_floating_point()])
    assert close.float().mean() > 0.97


def test_a_wrong_job_is_refused_before_any_worker_starts(
    tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "train.yaml"
    values = job_values(tmp_path / "out", data={"run": str(tmp_path / "none")}, ray={"workers": 1})
    config.write_text(yaml.safe_dump(values))
    assert main(["train", str(config)]) == 2
    assert "holds no run" in capsys.readouterr().err
