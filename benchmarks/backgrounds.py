"""What does the background cost? AP of the same objects before plain, drawn natural and photographed backgrounds.

    python -m benchmarks.backgrounds --images 100 --photographs FOLDER --output result.json

The scenes are those of `benchmarks.chunking`, seen by no training. FOLDER has photographs of yours; none comes with the
project. Each scene has a part of one of them behind its objects, picked by the scene's seed and number.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from benchmarks.chunking import SEED, measured
from benchmarks.machine import machine
from labeler import checkpoints
from labeler.errors import Refused
from labeler.training.shapes import Background, Natural
from labeler.training.validation import shapes_validation

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


class Photographs:
    """A background for `draw_scene`: a part of one of a folder's photographs.

    Raises:
        Refused: if the folder has none.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise Refused(f"{folder}: no photographs ({', '.join(sorted(_SUFFIXES))}) found")
        self.images = [ImageOps.exif_transpose(Image.open(file)).convert("RGB") for file in files]

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float32]:
        """(height, width, 3) in 0..255: from 2/5 to all of what fits into the photograph, anywhere in it."""
        image = self.images[int(rng.integers(len(self.images)))]
        fits = min(image.width / width, image.height / height) * rng.uniform(0.4, 1.0)
        part_width, part_height = width * fits, height * fits
        left, top = rng.uniform(0, image.width - part_width), rng.uniform(0, image.height - part_height)
        box = (left, top, left + part_width, top + part_height)
        part = image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
        return np.asarray(part, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", help="may be given several times")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--photographs", type=Path, help="a folder of photographs of your own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    backgrounds: dict[str, Background | None] = {"plain": None, "natural": Natural(1.0, asked.seed)}
    if asked.photographs:
        backgrounds["photographs"] = Photographs(asked.photographs)
    models = asked.model or [Path("models/shapes")]
    digests = {model: checkpoints.resolve(model).digest for model in models}
    print(f"{'':40}{'AP seen':>10}{'AP held out':>13}{'recall seen':>13}")
    rows = []
    for name, background in backgrounds.items():
        data = shapes_validation(asked.seed, asked.images, background=background)
        for model in models:
            row = {"background": name, "model": str(model), "digest": digests[model], **measured(model, data)}
            rows.append(row)
            print(
                f"{name + ' ' + str(model)[-26:]:40}{row.get('ap_seen', 0):10.3f}{row.get('ap_held_out', 0):13.3f}"
                f"{row.get('recall_seen', 0):13.3f}",
                flush=True,
            )
    if asked.output:
        photographs = len(backgrounds["photographs"].images) if "photographs" in backgrounds else 0
        result = {"machine": machine(), "images": asked.images, "seed": asked.seed, "photographs": photographs}
        asked.output.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
