"""Does a closed set find the objects? A small RT-DETR learns synthetic shapes, and `labeler label` is evaluated.

    python -m benchmarks.closed_set_shapes --minutes 20 --out /tmp/closed-set

From random weights on one CPU core: eight names, scenes of 128 x 128 pixels. Held-out scenes are then labeled with
`labeler label` (`vocabulary: from_model`) and judged with `labeler evaluate`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import small_shapes
from benchmarks.small_shapes import BATCH, HELD_OUT, NAMES, Drawn, draw, mirrored

SCENES = 3000
LR = 6e-4


def make_model() -> Any:
    """Return an RT-DETR with 50 queries and random weights; the backbone's normalization is trained, too."""
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


def train(model: Any, drawn: Drawn, minutes: float) -> int:
    """Train for this long; returns the number of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-4)
    rng = np.random.default_rng(0)
    model.train()
    start, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        chosen = rng.choice(len(drawn.targets), BATCH, replace=False)
        batch, labels = drawn.pixels[chosen].float() / 255, [drawn.targets[i] for i in chosen]
        if rng.random() < 0.5:  # an arrow is one in a mirror, too
            batch, labels = batch.flip(-1), [mirrored(target) for target in labels]
        loss = model(pixel_values=batch, labels=labels).loss
        small_shapes.learn(model, loss, optimizer, LR, step, done)
        step += 1
        if step % 100 == 0:
            print(f"{step:>6} steps, {100 * done:3.0f}% of the time, loss {loss.item():.2f}", flush=True)
    return step


def train_and_judge(minutes: float, out: Path) -> dict[str, Any]:
    model = make_model()
    steps = train(model, draw(SCENES), minutes)
    model.eval().save_pretrained(out / "checkpoint")
    small_shapes.save_image_settings(out / "checkpoint")
    found = small_shapes.judge(out, {"vocabulary": "from_model"})
    return {
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_scenes": HELD_OUT,
        "evaluation": found,
    }


def main() -> None:
    small_shapes.run(__doc__, "closed-set", 20.0, train_and_judge)


if __name__ == "__main__":
    main()
