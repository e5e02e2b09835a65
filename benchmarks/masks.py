"""What masks cost: labeling with and without them, the parts of a segmenter, and masks at the size of a photograph.

    python -m benchmarks.masks --output benchmarks/results/masks.json
    python -m benchmarks.masks --full sam sam2    # also full-size segmenters (random weights), one image per segmenter

Beside the wall-clock time is the CPU time, which other programs on the machine disturb less.
Random weights: the times are those of trained ones except for the shapes of the masks; the masks mean nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.machine import machine
from labeler.detectors import GroundingDino
from labeler.labeling.unit import UnitLabeler
from labeler.labels.detections import Detections
from labeler.segmenters.sam import Sam, Sketch
from labeler.segmenters.scratch import create_segmenter
from labeler.shards import Item
from labeler.training.shapes import ALL, draw_scene

SEED = 4242
PHOTOGRAPH = (3000, 4000)  # 12 megapixels


def timed(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Median, least and most seconds of a call, and the median of what it took of the processors."""
    seconds, busy = [], []
    for _ in range(rounds):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - cpu)
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "median_cpu_s": statistics.median(busy),
    }


def labeling(model: Path, segmenter: Path, *, images: int, rounds: int) -> dict[str, Any]:
    """Seconds per image of one unit, boxes alone and with masks of a tiny segmenter, interleaved."""
    threads = torch.get_num_threads()
    detector = GroundingDino(model, [c.name for c in ALL], device="cpu", threads=threads)
    items = [Item(f"{i}.png", i, "u", None, None, _png(draw_scene(SEED, i).image), None, {}) for i in range(images)]
    ways = {
        name: UnitLabeler(detector, decode_threads=1, images_per_batch=1, segmenter=made)
        for name, made in (("boxes", None), ("boxes and masks", Sam(segmenter, device="cpu", threads=threads)))
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    busy: dict[str, list[float]] = {name: [] for name in ways}
    counts: dict[str, Any] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            rows, stages = way.label("000000", items)
            seconds[name].append((time.perf_counter() - start) / images)
            busy[name].append((time.process_time() - cpu) / images)
            found = [row.detections for row in rows]
            counts[name] = {
                "detections": sum(map(len, found)),
                "masks": sum(one.count_masks() for one in found),
                "mask_stage_s_per_image": stages.mask / images,
            }
    return {
        name: {
            "s_per_image": statistics.median(all_),
            "range": [min(all_), max(all_)],
            "cpu_s_per_image": statistics.median(busy[name]),
            **counts[name],
        }
        for name, all_ in seconds.items()
    }


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def boxes_of(count: int, height: int, width: int) -> Detections:
    """Boxes of 2 to 30% of the image's sides, anywhere in it."""
    rng = np.random.default_rng(SEED)
    sides = rng.uniform(0.02, 0.3, (count, 2))
    corners = rng.uniform(0, 1 - sides)
    boxes = np.concatenate([corners, corners + sides], 1) * [width, height, width, height]
    return Detections.of(boxes, np.full(count, 0.9), np.ones(count))


def parts(folder: Path, *, rounds: int, boxes: int = 16) -> dict[str, Any]:
    """Seconds of each step of one segmenter, on a photograph."""
    sam = Sam(folder, device="cpu", threads=torch.get_num_threads())
    pixels = np.random.default_rng(SEED).integers(0, 256, (*PHOTOGRAPH, 3), np.uint8)
    found = boxes_of(boxes, *PHOTOGRAPH)
    prepared = sam.prepare(pixels)
    prompts = torch.from_numpy(sam.preprocessing.to_model(found.boxes, *PHOTOGRAPH))
    with torch.inference_mode():
        normalized = sam._normalized(prepared)
        embedding = sam._forward.encode(normalized)
        return {
            "parameters": sum(p.numel() for p in sam._forward.model.parameters()),
            "side": sam.preprocessing.side,
            "prepare": timed(lambda: sam.prepare(pixels), rounds),
            "encode": timed(lambda: sam._forward.encode(normalized), rounds),
            f"decode_{sam.boxes_per_batch}_boxes": timed(
                lambda: sam._forward.decode(embedding, prompts[: sam.boxes_per_batch]), rounds
            ),
        }


def drawing(folder: Path, *, boxes: int, rounds: int) -> dict[str, Any]:
    """Coarse logits to masks of a photograph: in windows, as labeler does, and whole images as is usual."""
    sam = Sam(folder, device="cpu", threads=torch.get_num_threads(), max_masks=0)
    height, width = PHOTOGRAPH
    found = boxes_of(boxes, height, width)
    logits = np.stack([_blob(box, sam, height, width) for box in found.boxes])
    sketch = Sketch(found, np.arange(boxes), logits, np.ones(boxes, np.float32), height, width)
    tracemalloc.start()
    drawn = sam.draw(sketch).detections
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    side, fed = sam.preprocessing.side, sam.preprocessing.resized_shape(height, width)

    def whole() -> None:
        made = functional.interpolate(torch.from_numpy(logits[:1])[None], (side, side), mode="bilinear")
        made = functional.interpolate(made[..., : fed[0], : fed[1]], (height, width), mode="bilinear")
        pycocotools.mask.encode(np.asfortranarray((made[0, 0] > 0).numpy().astype(np.uint8)))

    return {
        "image": [height, width],
        "boxes": boxes,
        "masks": drawn.count_masks(),
        "windows": timed(lambda: sam.draw(sketch), rounds),
        "windows_peak_mb": peak / 1e6,
        "whole_images_one_mask": timed(whole, rounds),
        "whole_images_mb_of_float_masks": boxes * height * width * 4 / 1e6,
    }


def _blob(box: np.ndarray, sam: Sam, height: int, width: int) -> np.ndarray:
    """(256, 256) logits of an ellipse in the box, the size that full-size models give."""
    left, top, right, bottom = sam.preprocessing.to_model(box[None], height, width)[0] * 256 / sam.preprocessing.side
    y, x = np.mgrid[:256, :256] + 0.5
    across, down = (x - (left + right) / 2) / (right - left), (y - (top + bottom) / 2) / (bottom - top)
    return (8 * (0.25 - across**2 - down**2)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/shapes"), help="the detector")
    parser.add_argument("--full", nargs="*", default=[], choices=["sam", "sam_hq", "sam2"])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--boxes", type=int, default=100, help="of the photograph")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"machine": machine(), "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        tiny = create_segmenter(Path(folder) / "tiny", family="sam")
        result["labeling"] = labeling(arguments.model, tiny, images=arguments.images, rounds=arguments.rounds)
        result["drawing"] = drawing(tiny, boxes=arguments.boxes, rounds=arguments.rounds)
        result["parts"]["tiny sam"] = parts(tiny, rounds=arguments.rounds)
        for family in arguments.full:
            made = create_segmenter(Path(folder) / family, family=family, size="base", redraw=False)
            result["parts"][f"full {family}"] = parts(made, rounds=1)
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
