"""What must not depend on luck: an image that overflows in halves, one among others, threads that share a detector."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.gpu.bench import Bench
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.preprocess import DetectError, Prepared
from labeler.labels.detections import Detections
from labeler.prompts.grounding_dino import pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

_FACTOR = 2.0**20  # a power of two: in float32 what it multiplies and then divides is the same to the bit
_ALIKE = 0.9  # of an image's best scores; in halves near-ties change places with the batch's size
Result = Detections | DetectError


def recovery(bench: Bench) -> None:
    bench.journal.step("an overflow in half precision", lambda: _overflow(bench))
    bench.journal.step("in company as alone", lambda: _in_company(bench))


def _overflow(bench: Bench) -> None:
    """A feed-forward whose hidden layer is beyond float16, and as before in float32: every image is done in float32."""
    folder = create_checkpoint(bench.work / "overflow", words=bench.all_names[:40], kind="original", redraw=True)
    prompts = pack(Vocabulary.load(bench.all_names[:6]), Tokenizer.load(folder))
    picture = bench.pictures(1, [(128, 171)])
    expected = GroundingDino(folder, prompts, device=bench.device.type, dtype="float32").detect(picture)[0]
    _push_beyond_halves(folder / "model.safetensors")
    for engine in ("transformers", "fast"):
        detector = GroundingDino(
            folder, prompts, device=bench.device.type, dtype="float16", engine=engine, pairs_per_batch=2
        )
        with torch.inference_mode():
            pixels = detector._passes.upload([detector.prepare(picture[0])])
            rows = detector._passes(pixels)
        overflows = rows is not None and not bool(rows.isfinite().all())
        again = [alike(expected, found) for found in detector.detect(picture * 2)]
        passed = overflows and min(again) >= _ALIKE and len(expected) > 0
        told = {"engine": engine, "overflows": overflows, "boxes": len(expected), "alike": again}
        bench.journal.check("an overflow in half precision", passed, **told)


def _push_beyond_halves(weights: Path) -> None:
    tensors = load_file(weights)
    name = "model.encoder.layers.0.deformable_layer"
    for part, factor in (("fc1.weight", _FACTOR), ("fc1.bias", _FACTOR), ("fc2.weight", 1 / _FACTOR)):
        tensors[f"{name}.{part}"] *= factor
    save_file(tensors, weights, {"format": "pt"})


def _in_company(bench: Bench) -> None:
    """Pinned buffers reused too early, results read too early, forward passes of two threads at once would show."""
    pictures = bench.pictures(3 if bench.small else 6)
    detector = bench.detector(bench.chunks[1], pairs_per_batch=4)
    images = [detector.prepare(picture) for picture in pictures]
    alone = [detector.detect_prepared([image])[0] for image in images]
    many = images * (2 if bench.small else 8)
    for turn in range(1 if bench.small else 3):
        _report(bench, "in company as alone", alone, detector.detect_prepared(many), turn)
    _report(bench, "by alternating threads as alone", alone, _by_threads(detector, many))


def _by_threads(detector: GroundingDino, images: Sequence[Prepared], threads: int = 3) -> list[Result]:
    lock, found = threading.Lock(), dict[int, Result]()

    def unit(first: int) -> None:
        for place in range(first, len(images), threads):
            with lock:
                found[place] = detector.detect_prepared([images[place]])[0]

    running = [threading.Thread(target=unit, args=(first,)) for first in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return [found[place] for place in range(len(images))]


def _report(bench: Bench, what: str, alone: Sequence[Result], found: Sequence[Result], turn: int = 0) -> None:
    same = [alike(alone[place % len(alone)], each) for place, each in enumerate(found)]
    bench.journal.check(what, min(same) >= _ALIKE, turn=turn, least=min(same), mean=round(float(np.mean(same)), 4))


def alike(expected: Result, found: Result, score: float = 0.02) -> float:
    """Part of the best 50 expected scores that are found within `score`; 0 where either is an error."""
    if isinstance(expected, DetectError) or isinstance(found, DetectError):
        return 0.0
    best = min(50, len(expected), len(found))
    if not best:
        return float(len(expected) == len(found))
    ours, theirs = (np.sort(each.scores)[-best:] for each in (found, expected))
    return float((np.abs(ours - theirs) <= score).mean())
