"""Small parts that the training tests share: a tiny checkpoint, its vocabulary, a job's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labeler.detectors.grounding_dino.scratch import Size, create_checkpoint
from labeler.training.shapes import ALL

TINY: dict[str, Any] = {
    "d_model": 32,
    "layers": 2,
    "queries": 12,
    "backbone_width": 8,
    "backbone_depths": [1, 1, 1, 1],
    "backbone_heads": [1, 1, 1, 1],
    "window": 4,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 1,
    "image_size": [80, 120],
}


def tiny_checkpoint(folder: Path, *, redraw: bool = True) -> Path:
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in TINY.items()}
    return create_checkpoint(folder, words=[c.name for c in ALL], size=Size(**fields), redraw=redraw)


def job_values(output: Path, **sections: Any) -> dict[str, Any]:
    """A job that takes seconds; `sections` replace whole sections."""
    values: dict[str, Any] = {
        "output": str(output),
        "model": {"new": {"size": TINY}},
        "data": {"shapes": {"seed": 3}},
        "prompts": {"min_categories": 2, "max_categories": 6},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2},
        "train": {"steps": 4, "batch_size": 2, "log_steps": 2, "loaders": 0, "threads": 1},
        "validation": {"steps": 0},
        "ray": {"workers": 0},
    }
    return {**values, **sections}
