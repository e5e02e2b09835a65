"""Detectors of a user's own, as modules in a folder; and what tests of them share."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from tests.inputs import image_bytes

PLAIN = """
from pathlib import Path
import numpy as np

VERSION = 3
OPTIONS = ("part",)

class Detector:
    description = {"kind": "plain"}

    def __init__(self, folder, categories, device, options):
        self.ids = [category.id for category in categories]
        self.part = options.get("part", 0.5)
        self.bias = float(Path(folder, "weights.txt").read_text())

    def detect(self, images):
        return [self.one(image) for image in images]

    def one(self, image):
        height, width = image.shape[:2]
        if width == 77:
            return RuntimeError("no image of this width")
        score = self.bias + 0.5 * float(image.mean()) / 255
        return [[0, 0, width * self.part, 2 * height]], np.array([score]), [self.ids[-1]]
"""


def write_module(folder: Path, name: str, text: str = PLAIN) -> Path:
    """A module of a dotted name below a folder; returns its file."""
    file = folder.joinpath(*name.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def forget_module(name: str) -> None:
    """This process imports it again, as another process would."""
    for loaded in [loaded for loaded in sys.modules if f"{loaded}.".startswith(f"{name}.")]:
        del sys.modules[loaded]


def write_weights(folder: Path, bias: float = 0.25) -> Path:
    """What `PLAIN` takes for a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.txt").write_text(str(bias))
    return folder


def write_images(folder: Path, widths: tuple[int, ...] = (40, 64, 77, 40)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, width in enumerate(widths):
        (folder / f"{number}.png").write_bytes(image_bytes(number, width=width, height=30))
    return folder


def write_own_config(folder: Path, module: str, **sections: object) -> Path:
    """A config for a module, with weights and images beside it; the run is in `folder/run`."""
    values = {
        "input": str(write_images(folder / "in")),
        "output": str(folder / "run"),
        "vocabulary": ["cat", "dog"],
        "model": {"name": str(write_weights(folder / "weights")), "family": module},
        "ray": {"cpus_per_worker": 1, "gpus_per_worker": 0},
        **sections,
    }
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump(values))
    return file
