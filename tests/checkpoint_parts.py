"""Folders in the layout of a checkpoint, as small as can be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_checkpoint(
    folder: Path, *, architecture: str = "MMGroundingDinoForObjectDetection", weights: bool = True
) -> Path:
    """Config, vocabulary and image settings that `resolve` accepts, and one small tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (folder / "vocab.txt").write_text("[PAD]\n")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 128, "longest_edge": 224}}))
    if weights:
        save_file({"weight": np.ones((64, 64), np.float32)}, folder / "model.safetensors")
    return folder
