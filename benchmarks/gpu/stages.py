"""Where the time of a forward pass goes: by stage, on host and device, for each number of chunks and images."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.timing import call_ms, fresh_memory, launches, memory
from labeler import checkpoints
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.split_forward import SplitForward
from labeler.detectors.loading import choose_half, load_model

_MOST_TOGETHER = 16  # pairs of one image


def stages(bench: Bench) -> None:
    bench.journal.step("backbones", lambda: _backbones(bench))
    for chunks in bench.chunks:
        bench.journal.step(f"stages of {chunks} chunks", lambda n=chunks: _stages(bench, n), needs_s=10)  # type: ignore[misc]


@torch.inference_mode()
def _backbones(bench: Bench) -> None:
    """The fast engine's backbone against transformers' modules under autocast: equal bits, and what each takes."""
    half = choose_half("auto", bench.device) or torch.bfloat16
    model = load_model(checkpoints.resolve(bench.folder), bench.device)
    stock, fast = SplitForward(model, half=half), FastForward(model, half=half)
    for images in (1, 4):
        pixels = torch.randn(images, 3, *bench.sizes[0], device=bench.device)
        ways = {"transformers": stock, "fast": fast}
        features = {name: way.encode_image(pixels).features for name, way in ways.items()}
        equal = torch.equal(features["transformers"], features["fast"])
        for name, way in ways.items():
            run = partial(way.encode_image, pixels)
            found = {"ms": call_ms(run, bench.device), **launches(run, bench.device)}
            bench.journal.row("backbone", engine=name, images=images, equal_bits=equal, **found)


@torch.inference_mode()
def _stages(bench: Bench, chunks: int) -> None:
    counts = (1, 2) if bench.small else (1, 2, 4, 8) if chunks == 1 else (1,)
    for images in counts if chunks == 1 else (1,):
        together = min(_MOST_TOGETHER, images * chunks)
        detector = bench.detector(chunks, pairs_per_batch=together)
        passes = detector._passes
        batch = [detector.prepare(picture) for picture in bench.pictures(images, bench.sizes[:1])]
        pixels = passes.upload(batch)
        encoded, pairs = passes.encode(pixels), torch.arange(together, device=bench.device)
        image, text = encoded.take(pairs % images), passes.text.take(pairs % chunks)
        fresh_memory()
        calls = {
            "upload": lambda: passes.upload(batch),  # noqa: B023
            "normalize": lambda: passes.normalize(pixels),  # noqa: B023
            "backbone": lambda: passes.encode(pixels),  # noqa: B023
            "pairs": lambda: passes.network.detect(image, text),  # noqa: B023
            "forward": lambda: passes(pixels),  # noqa: B023
        }
        for stage, call in calls.items():
            ms = call_ms(call, bench.device, 3 if bench.small else 7)
            counted = launches(call, bench.device) if stage in ("pairs", "forward") else {}
            row: dict[str, Any] = {"chunks": chunks, "images": images, "pairs": together}
            bench.journal.row("stage", stage=stage, **row, ms=ms, **counted, **memory())
        if bench.journal.left() < 10:
            return
