"""What the small OWLv2 of `owl_shapes` finds above several score floors, and by crops in the place of words.

    python -m benchmarks.owl_crops /tmp/owl/checkpoint --output owl-crops.json

On the held-out scenes; then, on scenes with two shapes more, of these two: it has seen none of them, and no name had
their colors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine
from benchmarks.owl_shapes import drawn_set, found_in
from benchmarks.small_shapes import HELD_OUT_SEED, NAMES, SIZE
from labeler.training import shapes
from labeler.training.shapes.data_set import encode
from labeler.training.shapes.scenes import draw_scene
from labeler.training.validation import ValidationSet, measure
from labeler.vocabulary import Vocabulary
from labeler.vocabulary.crops import ObjectCrop

FLOORS = (0.0, 0.01, 0.02, 0.05)
NEVER_SEEN = ("cyan circle", "brown cross")
SCENES = 200
CROP_SEED = 4711
# Around the object, in parts of its size on each side. A crop is enlarged to the model's image: without any, its object
# is twice as large as the largest that was learned.
MARGINS = (0.0, 1.0)


def crop_of(name: str, margin: float) -> ObjectCrop:
    """An object of a scene of its own, cut out."""
    scene = draw_scene(CROP_SEED, 0, sizes=[(SIZE, SIZE)], combinations=shapes.select([name]), max_objects=1)
    low, high = np.split(scene.boxes_xyxy[0], 2)
    around = margin * (high - low)
    (left, top), (right, bottom) = np.clip([low - around, high + around], 0, SIZE).round().astype(int)
    return ObjectCrop(name, encode(replace(scene, image=scene.image[top:bottom, left:right]), "png"))


def by_crops(vocabulary: Vocabulary, margin: float) -> Vocabulary:
    """Crops in the place of words."""
    found = (replace(c, phrases=(), crops=(crop_of(c.name, margin),)) for c in vocabulary.categories)
    return Vocabulary(vocabulary.name, tuple(found))


def only(data: ValidationSet, names: Sequence[str]) -> ValidationSet:
    """The same scenes, asked for these names alone and measured on them alone."""
    categories = tuple(category for category in data.vocabulary.categories if category.name in names)
    ids = frozenset(category.id for category in categories)
    images = tuple(
        replace(image, boxes=image.boxes[kept], category_ids=image.category_ids[kept])
        for image in data.images
        for kept in [np.isin(image.category_ids, list(ids))]
    )
    return ValidationSet(images, Vocabulary(data.vocabulary.name, categories), {"all": ids})


def by_words_and_crops(data: ValidationSet, checkpoint: Path) -> dict[str, Any]:
    measured = {"words": measure(data, found_in(data, checkpoint, data.vocabulary))}
    for margin in MARGINS:
        asked = by_crops(data.vocabulary, margin)
        measured[f"crops, margin {margin:g}"] = measure(data, found_in(data, checkpoint, asked))
    return measured


def compare(checkpoint: Path) -> dict[str, Any]:
    data = drawn_set(HELD_OUT_SEED, SCENES)
    floors = {}
    for floor in FLOORS:
        found = found_in(data, checkpoint, data.vocabulary, floor=floor)
        floors[str(floor)] = measure(data, found) | {"boxes_an_image": round(sum(map(len, found)) / SCENES, 1)}
    more = only(drawn_set(HELD_OUT_SEED, SCENES, (*NAMES, *NEVER_SEEN)), NEVER_SEEN)
    return {
        "scenes": SCENES,
        "floors": floors,
        "named": by_words_and_crops(data, checkpoint),
        "never seen": by_words_and_crops(more, checkpoint),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint that owl_shapes wrote")
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = {"machine": machine(), **compare(asked.checkpoint)}
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if asked.output:
        asked.output.write_text(text)
    return 0


if __name__ == "__main__":
    main()
