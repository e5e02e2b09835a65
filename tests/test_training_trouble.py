"""Training that goes wrong: it is reported, stops after too much, and keeps earlier good checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from training_parts import job_values, tiny_checkpoint

from labeler.cli import main
from labeler.errors import Incomplete, StorageError
from labeler.training import job
from labeler.training.config import make_training_job
from labeler.training.examples import Example, ExampleSource
from labeler.training.outputs import Outputs

WIDE, TALL = (100, 50), (50, 100)


def _data(folder: Path, sizes: list[tuple[int, int]], broken: list[int]) -> dict[str, Any]:
    """A COCO file over images of these sizes, some of which are not images; and where both are."""
    images, notes = [], []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.png"
        if number in broken:
            path.write_bytes(b"not an image")
        else:
            Image.new("RGB", size, (40 * number % 256, 90, 20)).save(path)
        images.append({"id": number, "file_name": path.name, "width": size[0], "height": size[1]})
        notes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [5, 5, 30, 30]})
    data = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "red circle"}]}
    (folder / "gt.json").write_text(json.dumps(data))
    return {"annotations": str(folder / "gt.json"), "images": str(folder)}


def _train(steps: int, **values: Any) -> dict[str, Any]:
    return {"steps": steps, "batch_size": 1, "log_steps": 1, "loaders": 0, "threads": 1, **values}


def _main(tmp_path: Path, **sections: Any) -> int:
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(job_values(tmp_path / "out", **sections)))
    return main(["train", str(config)])


def _log(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("loaders", [0, 1])
def test_a_batch_of_unreadable_images_is_dropped_and_counted(tmp_path: Path, loaders: int) -> None:
    data = _data(tmp_path, [WIDE, WIDE, WIDE, TALL], broken=[3])
    assert _main(tmp_path, data=data, train=_train(4, loaders=loaders), prompts={"min_categories": 1}) == 0
    last = _log(tmp_path / "out")[-1]
    assert (last["skipped_steps"], last["unreadable_images"]) == (1, 1)
    state = Outputs(str(tmp_path / "out")).read_state()
    assert state is not None
    assert state["step"] == 4


def test_many_unreadable_images_stop_the_job_after_a_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _data(tmp_path, [WIDE, WIDE, TALL, (80, 80)], broken=[2, 3])
    assert _main(tmp_path, data=data, train=_train(8)) == 1
    assert "2 of 4 images cannot be read" in capsys.readouterr().err
    assert (tmp_path / "out" / "state.pt").exists()


class _Failing:
    """A source whose storage fails for good at one step."""

    stored_images = 9

    def __init__(self, source: ExampleSource, at: int) -> None:
        self._source, self._at = source, at

    def batch(self, step: int, size: int, part: slice) -> list[Example]:
        if step == self._at:
            raise StorageError("the disk is on fire")
        return self._source.batch(step, size, part)


def test_what_was_learned_is_saved_before_storage_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job._source
    monkeypatch.setattr(job, "_source", lambda *arguments: _Failing(made(*arguments), 2))
    with pytest.raises(Incomplete, match="the disk is on fire; step 2 is saved"):
        job.run_worker(make_training_job(job_values(tmp_path / "out", train=_train(9))))
    state = Outputs(str(tmp_path / "out")).read_state()
    assert state is not None
    assert state["step"] == 2


def test_a_loss_that_is_not_finite_stops_the_job_and_what_was_good_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = {"name": str(tiny_checkpoint(tmp_path / "start"))}
    output = tmp_path / "out"
    assert _main(tmp_path, model=start, train=_train(2)) == 0
    good = (output / "state.pt").read_bytes(), (output / "checkpoint" / "model.safetensors").read_bytes()
    wild = {"lr": 1e38, "warmup_steps": 0}
    config = json.loads((output / "config.json").read_text())
    (output / "config.json").write_text(json.dumps(config | {"optimizer": config["optimizer"] | wild}))
    capsys.readouterr()
    train = _train(60, max_bad_steps=3, save_seconds=1e-6)
    assert _main(tmp_path, model=start, optimizer=wild, train=train) == 1
    assert "NaN or infinite since step 3" in capsys.readouterr().err
    assert _log(output)[-1]["step"] == 6
    assert good == ((output / "state.pt").read_bytes(), (output / "checkpoint" / "model.safetensors").read_bytes())


def test_a_job_that_learned_nothing_is_not_complete(tmp_path: Path) -> None:
    start = {"name": str(tiny_checkpoint(tmp_path / "start"))}
    wild = {"lr": 1e38, "warmup_steps": 0}
    assert _main(tmp_path, model=start, optimizer=wild, train=_train(2)) == 1
    assert not (tmp_path / "out" / "state.pt").exists()


def test_the_checkpoint_of_the_best_validation_is_kept(tmp_path: Path) -> None:
    validation = {"steps": 1, "shapes": {"images": 1}}
    assert _main(tmp_path, train=_train(2), validation=validation) == 0
    first, second = (record["ap_seen"] for record in _log(tmp_path / "out") if "ap_seen" in record)
    assert first >= second, "else this test says nothing: the first one is to be kept"
    best, last = (tmp_path / "out" / name / "model.safetensors" for name in ("best", "checkpoint"))
    assert best.read_bytes() != last.read_bytes()
    from safetensors.torch import load_file

    assert all(bool(torch.isfinite(value).all()) for value in load_file(best).values())
