"""Does a closed set find what is there? A small RT-DETR learns drawn shapes, and `labeler label` is evaluated.

    python -m benchmarks.closed_set_shapes --minutes 20 --out /tmp/closed-set

From random weights on one CPU core: eight names, scenes of 128 x 128 pixels. Held-out scenes are then labeled with
`labeler label` (`vocabulary: from_model`) and judged with `labeler evaluate`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from benchmarks.machine import machine
from labeler.cli import main as labeler
from labeler.training import shapes
from labeler.training.shapes.scenes import Scene, draw_scene

NAMES = (
    "red circle", "blue square", "yellow triangle", "green star",
    "purple cross", "orange ring", "pink heart", "black arrow",
)  # fmt: skip
SIZE = 128  # pixels, both sides
TRAINING_SEED, HELD_OUT_SEED = 11, 31337
SCENES, HELD_OUT = 3000, 200
BATCH = 16


def make_model() -> Any:
    """RT-DETR with 50 queries and random weights; normalisation of the backbone learns, too."""
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=24,
        hidden_sizes=[24, 48, 96, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        d_model=96,
        encoder_hidden_dim=96,
        encoder_in_channels=[48, 96, 128],
        encoder_ffn_dim=192,
        encoder_attention_heads=4,
        decoder_in_channels=[96, 96, 96],
        decoder_ffn_dim=192,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_queries=50,
        num_denoising=20,
        hidden_expansion=0.5,
        id2label=dict(enumerate(NAMES)),
    )
    return transformers.RTDetrForObjectDetection(config)


def target_of(scene: Scene, numbers: dict[int, int]) -> dict[str, Tensor]:
    """Labels and boxes (cxcywh, in parts of the image) as transformers' loss takes them."""
    boxes = torch.from_numpy(scene.boxes_xyxy) / SIZE
    low, high = boxes.split(2, -1)
    labels = torch.tensor([numbers[number] for number in scene.category_ids.tolist()])
    return {"class_labels": labels, "boxes": torch.cat([(low + high) / 2, high - low], -1)}


def train(model: Any, minutes: float) -> int:
    """Train for this long; returns the number of steps."""
    chosen = shapes.select(NAMES)
    numbers = {combination.category_id: NAMES.index(combination.name) for combination in chosen}
    scenes = [draw_scene(TRAINING_SEED, i, sizes=[(SIZE, SIZE)], combinations=chosen) for i in range(SCENES)]
    pixels = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    targets = [target_of(scene, numbers) for scene in scenes]
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=1e-4)
    rng = np.random.default_rng(0)
    model.train()
    start, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        warm_up = min(1.0, (step + 1) / 100)
        optimizer.param_groups[0]["lr"] = 6e-4 * warm_up * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
        chosen_now = rng.choice(len(scenes), BATCH, replace=False)
        batch, labels = pixels[chosen_now].float() / 255, [targets[i] for i in chosen_now]
        if rng.random() < 0.5:  # an arrow is one in a mirror, too
            batch, labels = batch.flip(-1), [mirrored(target) for target in labels]
        loss = model(pixel_values=batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"{step:>6} steps, {100 * done:3.0f}% of the time, loss {loss.item():.2f}", flush=True)
    return step


def mirrored(target: dict[str, Tensor]) -> dict[str, Tensor]:
    boxes = target["boxes"].clone()
    boxes[:, 0] = 1 - boxes[:, 0]
    return {**target, "boxes": boxes}


def keep(model: Any, folder: Path) -> None:
    """A checkpoint as any other: weights, config, image settings."""
    model.eval().save_pretrained(folder)
    settings = {"size": {"height": SIZE, "width": SIZE}, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def judge(folder: Path, out: Path) -> dict[str, Any]:
    """Label held-out scenes with the checkpoint, and what `labeler evaluate` says of it."""
    drawn = shapes.write_data_set(
        str(out / "held-out"),
        images=HELD_OUT,
        seed=HELD_OUT_SEED,
        combinations=shapes.select(NAMES),
        sizes=[(SIZE, SIZE)],
        image_format="png",
    )
    truth = json.loads(Path(drawn.annotations).read_text())
    truth["categories"] = [category for category in truth["categories"] if category["name"] in NAMES]
    Path(drawn.annotations).write_text(json.dumps(truth))
    config = {
        "input": str(Path(drawn.shards[0]).parent),
        "output": str(out / "run"),
        "vocabulary": "from_model",
        "model": {"name": str(folder)},
        "ray": {"cpus_per_worker": 1},
    }
    (out / "label.yaml").write_text(json.dumps(config))
    assert labeler(["label", str(out / "label.yaml")]) == 0
    assert labeler(["evaluate", str(out / "run"), "--annotations", drawn.annotations, "--categories-by-name"]) == 0
    found: dict[str, Any] = json.loads((out / "run" / "evaluation.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument("--out", type=Path, default=Path("closed-set"), help="a new folder for checkpoint and run")
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = make_model()
    steps = train(model, asked.minutes)
    asked.out.mkdir(parents=True)
    keep(model, asked.out / "checkpoint")
    found = judge(asked.out / "checkpoint", asked.out)
    result = {
        "machine": machine(),
        "minutes": asked.minutes,
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_scenes": HELD_OUT,
        "evaluation": found,
    }
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
