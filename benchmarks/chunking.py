"""What does each `prompts.protocol` find, and at what price? AP of each, on the same scenes.

    python -m benchmarks.chunking --images 200

The shapes checkpoint looks at scenes it has never seen, for all 80 names: in one prompt, in chunks, one phrase per pass
(what the zero-shot pipelines do), and with word-level masks, where every word attends to all others (GLIP's way). It
was trained with phrases closed off from each other, so the latter says what a mask does that the training did not have.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from labeler.detectors import GroundingDino
from labeler.prompts.grounding_dino import pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.training.validation import ValidationSet, measure, shapes_validation

SEED = 31337  # no training or validation scene has it


def measured(model: Path, data: ValidationSet, **asked: Any) -> dict[str, Any]:
    """AP and the like of one way to ask; `asked` goes to `pack`."""
    prompts = pack(data.vocabulary, Tokenizer.load(model), **asked)
    detector = GroundingDino(model, prompts, device="cpu", threads=torch.get_num_threads())
    start = time.perf_counter()
    found = detector.detect([image.pixels for image in data.images])
    seconds = time.perf_counter() - start
    return {"chunks": len(prompts.chunks), **measure(data, found), "seconds_per_image": seconds / len(data.images)}


def read_scenes(doc: str | None) -> tuple[argparse.Namespace, ValidationSet]:
    """The command's arguments, and the scenes that they ask for."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/shapes"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = shapes_validation(arguments.seed, arguments.images)
    print(f"{arguments.images} scenes of seed {arguments.seed}, {len(data.vocabulary)} names")
    return arguments, data


def write_rows(arguments: argparse.Namespace, rows: Any) -> None:
    """Write the result where `--output` says, if it does."""
    if arguments.output:
        result = {"machine": machine(), "images": arguments.images, "seed": arguments.seed, "rows": rows}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    arguments, data = read_scenes(__doc__)
    ways: dict[str, dict[str, Any]] = {
        "packed: all in one prompt": {},
        "packed, four chunks": {"max_categories": 20},
        "mmdet: 40 names per chunk": {"protocol": "mmdet"},
        "glip: 40, every word sees all": {"protocol": "glip"},
        "glip, all in one prompt": {"protocol": "glip", "max_categories": 80},
        "sentence: one phrase per pass": {"protocol": "sentence"},
    }
    print(f"{'':30}{'chunks':>8}{'AP seen':>10}{'AP held out':>13}{'ms/image':>10}")
    rows = {}
    for name, way in ways.items():
        row = rows[name] = measured(arguments.model, data, **way)
        print(
            f"{name:30}{row['chunks']:8}{row['ap_seen']:10.3f}{row['ap_held_out']:13.3f}"
            f"{1000 * row['seconds_per_image']:10.0f}",
            flush=True,
        )
    write_rows(arguments, rows)


if __name__ == "__main__":
    main()
