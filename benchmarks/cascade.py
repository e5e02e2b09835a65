"""What a cascade saves and costs: a cheap detector names what is there, a dear one looks for those names alone.

    python -m benchmarks.cascade --owl OWL_CHECKPOINT --output benchmarks/results/cascade-owl.json
    python -m benchmarks.cascade --output benchmarks/results/cascade-half-size.json

The dear detector is the shapes checkpoint, asked in chunks of 128 tokens for shapes and for names of nothing that fill
the vocabulary up to 240 and 480. One cheap detector is a small OWLv2 trained by itself (`benchmarks.owl_shapes`), on
scenes of the eight names that it has learned; the other is the shapes checkpoint at half the image size, on scenes
of all shapes. The floor is chosen on scenes of another seed than those that are measured: the highest at which 99% of
the (image, name) pairs with objects are asked for, or the least.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import small_shapes
from benchmarks.machine import machine
from labeler.checkpoints import resolve
from labeler.config import DetectConfig, ImageSize, ModelConfig, PromptsConfig
from labeler.detectors.batched import BatchedDetector
from labeler.detectors.preprocess import DetectError
from labeler.detectors.profiling import counted_operations
from labeler.evaluation import COCO, DetectionTable, read_ground_truth, score
from labeler.evaluation.operating_points import micro
from labeler.labels.detections import Detections
from labeler.training import shapes
from labeler.training.shapes.scenes import draw_scene
from labeler.training.validation import ValidationImage, ValidationSet, coco_of
from labeler.vocabulary import Category, Vocabulary

TUNING_SEED, MEASURED_SEED = 4711, 31337
CEILING = 0.99  # of the tuning scenes' pairs
FLOORS = np.round(np.geomspace(0.002, 0.5, 60), 4)
LEAST = 0.002  # score floor of the cheap detector
LETTERS = "abcdefghijklmnopqrstuvwxyz"
COUNTED = 8  # scenes whose operations are counted
Asked = tuple[int, ...] | None


@dataclass(frozen=True)
class Looked:
    """What a detector found in scenes, and what that took of the CPU."""

    found: list[Detections]
    cpu_s: float


def scenes(seed: int, count: int, names: Sequence[str] | None) -> ValidationSet:
    """Write synthetic scenes of all shapes, or of some names at the size that the small OWL takes."""
    chosen = shapes.ALL if names is None else shapes.select(names)
    sizes = {} if names is None else {"sizes": [(small_shapes.SIZE, small_shapes.SIZE)]}
    drawn = [draw_scene(seed, index, combinations=chosen, **sizes) for index in range(count)]
    images = tuple(ValidationImage(s.image, s.boxes_xyxy, s.category_ids.astype(np.int64)) for s in drawn)
    return ValidationSet(images, Vocabulary("shapes", ()), {})


def vocabulary_of(names: int) -> Vocabulary:
    """All shapes, and names of nothing up to this number: words of three letters that no shape has."""
    own = [Category(c.category_id, c.name, (c.name,)) for c in shapes.ALL]
    rng, taken = np.random.default_rng(0), set[str]()
    while len(taken) < names - len(own):
        taken.add("".join(LETTERS[place] for place in rng.integers(0, len(LETTERS), 3)))
    first = 1 + max(category.id for category in own)
    filler = [Category(first + place, word, (word,)) for place, word in enumerate(sorted(taken))]
    order = rng.permutation(names)
    return Vocabulary(f"{names} names", tuple([*own, *filler][place] for place in order))


def detector_of(folder: Path, vocabulary: Vocabulary, *, half_size: bool = False, floor: float | None = None) -> Any:
    """A detector on one thread that may be asked for some names alone."""
    checkpoint, model = resolve(folder), ModelConfig(name=str(folder), device="cpu")
    is_owl = checkpoint.family.name != "grounding-dino"
    prompts = PromptsConfig(templates=("{}",)) if is_owl else PromptsConfig(max_tokens=128)
    plan = checkpoint.family.planner(folder, model).plan(vocabulary, prompts)
    size = ImageSize(shortest_edge=64, longest_edge=96) if half_size else None
    assignment = "argmax" if floor is None else "flattened"  # the cheap one says the second-best names of a box, too
    detect = DetectConfig(score_floor=floor, image_size=size, assignment=assignment)
    return BatchedDetector(checkpoint, plan, model=model, detect=detect, threads=1, names_per_image=True)


def look(detector: BatchedDetector, data: ValidationSet, asked: Sequence[Asked] | None = None) -> Looked:
    """Detections of every scene, one at a time as on any CPU, and the seconds of this process."""
    found = []
    start = time.process_time()
    for image, ids in zip(data.images, asked or [None] * len(data.images), strict=True):
        if ids == ():
            found.append(Detections.empty())
            continue
        (result,) = detector.detect_prepared([replace(detector.prepare(image.pixels), asked=ids)])
        assert not isinstance(result, DetectError), result
        found.append(result)
    return Looked(found, time.process_time() - start)


def gflop(detector: BatchedDetector, data: ValidationSet, asked: Sequence[Asked] | None = None) -> float:
    """GFLOP an image, over the first scenes."""
    part = replace(data, images=data.images[:COUNTED])
    with counted_operations() as meter:
        look(detector, part, None if asked is None else asked[:COUNTED])
        return meter() / len(part.images) / 1e9


def asked_of(found: Sequence[Detections], floor: float) -> list[Asked]:
    return [tuple(sorted(set(each.category_ids[each.scores >= np.float32(floor)].tolist()))) for each in found]


def ceiling(data: ValidationSet, asked: Sequence[Asked]) -> float:
    """The share of the (image, name) pairs with objects that are asked for."""
    pairs = [(ids or (), id_) for image, ids in zip(data.images, asked, strict=True) for id_ in set(image.category_ids)]
    return float(np.mean([id_ in ids for ids, id_ in pairs]))


def choose_floor(data: ValidationSet, found: Sequence[Detections]) -> float:
    good = [floor for floor in FLOORS if ceiling(data, asked_of(found, floor)) >= CEILING]
    return float(max(good, default=FLOORS[0]))


def judge(data: ValidationSet, vocabulary: Vocabulary, found: Sequence[Detections]) -> dict[str, float]:
    """AP, and precision at two scores; what was not asked for counts as missed."""
    truth = read_ground_truth(coco_of(replace(data, vocabulary=vocabulary)))
    reached = score(truth, DetectionTable.of(truth, dict(enumerate(found, 1))), COCO)
    points = micro(reached, floor=0.05)
    at = {f"precision_at_{limit}": points.at(int(np.abs(points.thresholds - limit).argmin())) for limit in (0.3, 0.5)}
    precision = {name: round(float(point["precision"] or 0), 4) for name, point in at.items()}
    return {"ap": round(float(reached.summary()["AP"] or 0), 4), **precision}


def measure(dear: Path, cheap: Path, names: int, count: int, tuning: int) -> dict[str, Any]:
    """One cascade against all chunks on the same scenes."""
    half_size = cheap == dear
    vocabulary, shown = vocabulary_of(names), None if half_size else small_shapes.NAMES
    first = detector_of(cheap, vocabulary, half_size=half_size, floor=LEAST)
    second = detector_of(dear, vocabulary)
    other, data = scenes(TUNING_SEED, tuning, shown), scenes(MEASURED_SEED, count, shown)
    floor = choose_floor(other, look(first, other).found)
    for detector in (first, second):
        look(detector, replace(other, images=other.images[:2]))  # warm
    whole, named = look(second, data), look(first, data)
    asked = asked_of(named.found, floor)
    cascade = look(second, data, asked)
    passes = [
        second.passes_of(replace(second.prepare(data.images[0].pixels), asked=ids)) if ids else 0 for ids in asked
    ]
    work = {"all": gflop(second, data), "cheap": gflop(first, data), "named": gflop(second, data, asked)}
    return {
        "cheap": "half the image size" if half_size else "OWL",
        "names": names,
        "chunks": second.passes,
        "floor": floor,
        "recall_ceiling": round(ceiling(data, asked), 4),
        "names_an_image": round(float(np.mean([len(ids or ()) for ids in asked])), 2),
        "passes_an_image": round(float(np.mean(passes)), 2),
        "cpu_s": {"all": whole.cpu_s, "cheap": named.cpu_s, "named": cascade.cpu_s},
        "cpu_share": round((named.cpu_s + cascade.cpu_s) / whole.cpu_s, 3),
        "gflop_an_image": work,
        "gflop_share": round((work["cheap"] + work["named"]) / work["all"], 3),
        "all_chunks": judge(data, vocabulary, whole.found),
        "cascade": judge(data, vocabulary, cascade.found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/shapes"), help="the dear detector")
    parser.add_argument("--owl", type=Path, help="checkpoint of benchmarks.owl_shapes; without it, half the image size")
    parser.add_argument("--images", type=int, default=60, help="measured scenes")
    parser.add_argument("--tuning", type=int, default=40, help="scenes that the floor is chosen on")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for names in (240, 480):
        cheap = arguments.owl or arguments.model
        rows.append(measure(arguments.model, cheap, names, arguments.images, arguments.tuning))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.output:
        result = {"machine": machine(), "images": arguments.images, "tuning": arguments.tuning, "rows": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
