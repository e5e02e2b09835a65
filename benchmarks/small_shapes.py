"""Shared by the small detectors of synthetic shapes: eight names, scenes, a wall-clock schedule, and the evaluation.

Held-out scenes are labeled with `labeler label` and judged with `labeler evaluate`, as any other images are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine
from labeler.cli import main as labeler
from labeler.training import shapes
from labeler.training.schedule import lr_factor
from labeler.training.shapes.scenes import Scene, draw_scene

NAMES = (
    "red circle", "blue square", "yellow triangle", "green star",
    "purple cross", "orange ring", "pink heart", "black arrow",
)  # fmt: skip
SIZE = 128  # pixels, both sides
TRAINING_SEED, HELD_OUT_SEED = 11, 31337
HELD_OUT = 200
BATCH = 16


@dataclass(frozen=True)
class Drawn:
    """Scenes to learn from.

    Attributes:
        pixels: (scenes, 3, SIZE, SIZE) uint8.
        targets: of each scene its `class_labels` (objects,) and `boxes` (objects, 4), cxcywh in parts of the image.
    """

    pixels: Tensor
    targets: list[dict[str, Tensor]]


def draw(scenes: int) -> Drawn:
    chosen = shapes.select(NAMES)
    numbers = {combination.category_id: NAMES.index(combination.name) for combination in chosen}
    drawn = [draw_scene(TRAINING_SEED, i, sizes=[(SIZE, SIZE)], combinations=chosen) for i in range(scenes)]
    pixels = torch.from_numpy(np.stack([scene.image for scene in drawn])).permute(0, 3, 1, 2)
    return Drawn(pixels, [_target_of(scene, numbers) for scene in drawn])


def _target_of(scene: Scene, numbers: Mapping[int, int]) -> dict[str, Tensor]:
    boxes = torch.from_numpy(scene.boxes_xyxy) / SIZE
    low, high = boxes[:, :2], boxes[:, 2:]
    labels = torch.tensor([numbers[number] for number in scene.category_ids.tolist()])
    return {"class_labels": labels, "boxes": torch.cat([(low + high) / 2, high - low], -1)}


def mirrored(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """As its scene is with left and right exchanged."""
    boxes = target["boxes"].clone()
    boxes[:, 0] = 1 - boxes[:, 0]
    return {**target, "boxes": boxes}


def learn(model: Any, loss: Tensor, optimizer: torch.optim.Optimizer, lr: float, step: int, done: float) -> None:
    """One step: a hundred steps of warm-up, then half a cosine down to 2 % when all of the time is `done`."""
    optimizer.param_groups[0]["lr"] = lr * lr_factor(step, done, warmup_steps=99, final_factor=0.02)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


def write_scenes(folder: Path, images: int, seed: int) -> shapes.DataSet:
    """Shards of scenes of the eight names, and annotations that have no other category."""
    drawn = shapes.write_data_set(
        str(folder),
        images=images,
        seed=seed,
        combinations=shapes.select(NAMES),
        sizes=[(SIZE, SIZE)],
        image_format="png",
    )
    truth = json.loads(Path(drawn.annotations).read_text())
    truth["categories"] = [category for category in truth["categories"] if category["name"] in NAMES]
    Path(drawn.annotations).write_text(json.dumps(truth))
    return drawn


def judge(out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Label held-out scenes, and what `labeler evaluate` says of it.

    Args:
        out: holds the checkpoint in `checkpoint`; the scenes and the run are written beside it.
        settings: of the run's config, beside its model, input and output.
    """
    drawn = write_scenes(out / "held-out", HELD_OUT, HELD_OUT_SEED)
    return evaluated(out / "run", out, drawn, settings)


def evaluated(run: Path, out: Path, drawn: shapes.DataSet, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Label a data set into `run` and evaluate it."""
    config = {
        "input": str(Path(drawn.shards[0]).parent),
        "output": str(run),
        "model": {"name": str(out / "checkpoint")},
        "ray": {"cpus_per_worker": 1},
        **settings,
    }
    (out / f"{run.name}.yaml").write_text(json.dumps(config))
    assert labeler(["label", str(out / f"{run.name}.yaml")]) == 0
    assert labeler(["evaluate", str(run), "--annotations", drawn.annotations, "--categories-by-name"]) == 0
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return found


def save_image_settings(folder: Path) -> None:
    """Of a checkpoint whose images are SIZE pixels and 0 to 1."""
    settings = {"size": {"height": SIZE, "width": SIZE}, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def run(about: str | None, folder: str, minutes: float, measure: Callable[[float, Path], dict[str, Any]]) -> None:
    """The command of a benchmark: train and judge with one thread, and write what was measured.

    Args:
        folder: default of --out.
        minutes: default of --minutes.
        measure: minutes and folder to the measured values.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=minutes, help="of training")
    parser.add_argument("--out", type=Path, default=Path(folder), help="a new folder for checkpoint and run")
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True)
    result = {"machine": machine(), "minutes": asked.minutes, **measure(asked.minutes, asked.out)}
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=1) + "\n")
